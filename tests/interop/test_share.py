"""Tests flows that the real probe shares over two collectors."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.interop.test_transports import HURRY, assert_same, records, settle
from tests.support.interop.collectors import Collect
from tests.support.interop.flows import flow_of
from tests.support.interop.workload import Workload
from tests.support.lab.hosts import Host, inside
from tests.support.meters.actors import actors, translated_hosts
from tests.support.programs import probing, wait_until

#: UDP port 53 of the router leads to a server behind it, which never sees the clients' addresses.
_RULES = """
table ip shares {
  chain to { type nat hook prerouting priority -100;
    ip daddr 10.79.1.254 udp dport 53 dnat to 10.79.2.2:7053; }
  chain from { type nat hook postrouting priority 100;
    oifname "r2" udp dport 7053 masquerade to :40000-60000; }
}
"""


@pytest.fixture(scope="module")
def workload(hosts: tuple[Host, Host]) -> Workload:
    return Workload(hosts)


def keys(collector: Collect) -> set[object]:
    return {flow.key for flow in collector.flows()}


def open_members(folder: Path, stack: contextlib.ExitStack) -> list[Collect]:
    """Opens two collectors that share the flows, and one that gets all of them."""
    folders = [folder / name for name in ("one", "two", "witness")]
    found = []
    for one in folders:
        one.mkdir()
        found.append(stack.enter_context(contextlib.closing(Collect(one))))
    return found


@pytest.mark.parametrize("kind", ["hash", "round-robin"])
def test_both_directions_of_every_flow_at_one_collector(
    workload: Workload, tmp_path: Path, kind: str
) -> None:
    with contextlib.ExitStack() as stack:
        one, two, witness = open_members(tmp_path, stack)
        options = [word for member in (one, two) for word in ("-e", f"{member.url}&share={kind}")]
        probe = stack.enter_context(probing(tmp_path, *options, "-e", witness.url, *HURRY))
        workload.datagrams(20)
        workload.short(20)
        assert probe.stop() == 0, probe.errors
        for collector in (one, two, witness):
            collector.finish()
    assert_same(witness, one, two)
    for member in (one, two):
        assert {flow.reverse for flow in member.flows()} == keys(member)
        assert len(keys(member)) > 0.25 * len(keys(witness))
    assert not keys(one) & keys(two)


def test_both_directions_of_translated_datagrams_at_one_collector(tmp_path: Path) -> None:
    """This holds for every record of a flow, including those of later active timeouts."""
    asked = 40
    with contextlib.ExitStack() as stack:
        client, server = stack.enter_context(translated_hosts("ns", _RULES, "10.79"))
        stack.enter_context(inside("nsr"))
        one, two, witness = open_members(tmp_path, stack)
        options = [word for member in (one, two) for word in ("-e", f"{member.url}&share=hash")]
        probe = stack.enter_context(
            probing(tmp_path, *options, "-e", witness.url, *HURRY, "--include", "cidr=10.79.2.0/24")
        )
        with actors(client, server) as (asking, answering):
            answering.do("s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 7053))")
            asking.do(f"c = [socket.socket(type=socket.SOCK_DGRAM) for _ in range({asked})]")
            asking.do("for s in c: s.connect(('10.79.1.254', 53)); s.settimeout(120)")
            for played in range(1, 4):
                asking.do("for s in c: s.send(b'question')")
                answering.do(f"for _ in range({asked}): s.sendto(b'answer', s.recvfrom(99)[1])")
                asking.do("for s in c: s.recv(99)")
                _wait_for(2 * asked * played, witness)
        assert probe.stop() == 0, probe.errors
        for collector in (one, two, witness):
            collector.finish()
    directions = [_directions(collector) for collector in (one, two, witness)]
    assert all(len(ways) == 2 for flows in directions for ways in flows.values())
    assert not set(directions[0]) & set(directions[1])
    assert {**directions[0], **directions[1]} == directions[2]
    assert min(len(directions[0]), len(directions[1])) >= 5
    assert len(directions[2]) == asked
    assert len(_records(one)) + len(_records(two)) == len(_records(witness)) == 3 * 2 * asked


def _directions(collector: Collect) -> dict[int, set[object]]:
    """Returns the Flow Keys of each flow's records, by flowId."""
    found: dict[int, set[object]] = {}
    for record in _records(collector):
        found.setdefault(record["flowId"], set()).add(flow_of(record).key)
    return found


def _records(collector: Collect) -> list[dict[str, Any]]:
    """Returns the records of questions and answers that have arrived."""
    lines, _, _ = collector.program.output.rpartition("\n")
    found = [json.loads(line) for line in lines.splitlines()]
    sides = ("sourceTransportPort", "destinationTransportPort")
    return [one for one in found if {one[side] for side in sides} & {53, 7053}]


def test_flows_of_a_killed_collector_go_to_the_other(workload: Workload, tmp_path: Path) -> None:
    """Only records on the way at its end are lost, even while the probe tries to reach it again."""
    with contextlib.ExitStack() as stack:
        one, two, witness = open_members(tmp_path, stack)
        options = [word for member in (one, two) for word in ("-e", f"{member.url}&share=hash")]
        probe = stack.enter_context(probing(tmp_path, *options, "-e", witness.url, *HURRY))
        workload.datagrams(20)
        settle(one, two, witness)
        before = records(witness)
        two.program.stop(signal.SIGKILL)
        wait_until(lambda: _play(workload) and f"{_name(two)}: Connection ref" in probe.errors, "")
        settle(one, witness)
        noticed = records(witness)
        for _ in range(5):
            workload.datagrams(20)
        assert probe.stop() == 0, probe.errors
        for collector in (one, witness):
            collector.finish()
    assert keys(two)
    assert before <= records(one, two) <= records(witness)
    afterwards = records(witness) - noticed
    assert len(afterwards) >= 400
    assert afterwards <= records(one)
    assert {flow.key for flow in afterwards} - {flow.key for flow in before}
    lost = sum((records(witness) - records(one, two)).values())
    dropped = re.search(r"records_dropped (\d+)", probe.errors)
    assert dropped
    assert lost <= 2 * 40


def _wait_for(count: int, collector: Collect) -> None:
    wait_until(lambda: len(_records(collector)) >= count, f"{count} records")


def _play(workload: Workload) -> bool:
    workload.datagrams(2)
    return True


def _name(collector: Collect) -> str:
    return f"ipfix://{collector.host}:{collector.port}"
