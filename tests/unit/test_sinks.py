"""Tests sinks of events beside those of messages: what each gets, and SIGHUP."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from probe.config import RunConfig
from probe.enrich.container_owners import ContainerOwners
from probe.errors import ConfigError
from probe.flow.columns import EVENT_DTYPE, SOCKET_DTYPE
from probe.flow.filter import FlowFilter, parse_rule
from probe.flow.owner import Container, ContainerNames, Owner, Process
from probe.flow.rows import Rows
from probe.interfaces.interface import Interface
from probe.owners.runtime import KnownContainers
from probe.owners.users import UserNames
from probe.run.exporter import Exporter
from probe.run.feed import ChosenSockets, Feed
from probe.stop import StopSignals
from tests.support.json_schema import check_line
from tests.support.records import NOW_S, Metering, flow_records, owner_table


def open_exporter(*urls: str) -> Exporter:
    exporter = Exporter(RunConfig(), owner_table(), Metering())
    exporter.open(urls)
    return exporter


def drain(exporter: Exporter) -> None:
    deadline = time.monotonic() + 10
    while exporter.backlog and time.monotonic() < deadline:
        exporter.pump(time.monotonic())


def test_streams_get_flows_and_sinks_of_events_get_all(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    exporter = open_exporter(f"file://{tmp_path}/flows", f"json://{path}")
    stream, lines = exporter.sinks
    assert exporter.event_sinks == [lines]
    exporter.send(flow_records(6), NOW_S)
    events, sockets = np.zeros(2, EVENT_DTYPE), np.zeros(3, SOCKET_DTYPE)
    events["kind"], events["ip_version"] = 1, 4
    sockets["ip_version"] = 6
    exporter.send_events(events, NOW_S)
    exporter.send_sockets(sockets, NOW_S)
    exporter.send_interfaces([Interface(1, "lo")], NOW_S)
    drain(exporter)
    exporter.close()
    found = [check_line(line) for line in path.read_text().splitlines()]
    kinds = [line.get("EVENT_TYPE", "INTERFACE") for line in found]
    assert kinds == ["FLOW"] * 6 + ["CONNECT"] * 2 + ["LISTEN"] * 3 + ["INTERFACE"]
    assert stream.statistics.sent_flow_records == lines.statistics.sent_flow_records == 6
    assert lines.statistics.sent_records == 12
    assert lines.summary().startswith("12 objects (")
    assert lines.name == f"json://{path}"
    address = {line["EXPORTER_IPV4_ADDRESS"] for line in found if "EXPORTER_IPV4_ADDRESS" in line}
    assert len(address) <= 1
    assert {line["EXPORTER_NAME"] for line in found[:-1]} == {os.uname().nodename}


def test_nothing_is_nothing(tmp_path: Path) -> None:
    exporter = open_exporter(f"json://{tmp_path}/lines")
    exporter.send(flow_records(0), NOW_S)
    exporter.send_events(np.zeros(0, EVENT_DTYPE), NOW_S)
    exporter.send_sockets(np.zeros(0, SOCKET_DTYPE), NOW_S)
    exporter.send_interfaces([], NOW_S)
    assert exporter.pump(time.monotonic()) is None
    exporter.close()
    assert (tmp_path / "lines").read_text() == ""


def test_only_files_of_lines_want_sighup(tmp_path: Path) -> None:
    for url, wanted in (
        (f"file://{tmp_path}/a", False), ("json:-", False), (f"json://{tmp_path}/b", True)
    ):  # fmt: skip
        exporter = open_exporter(url)
        assert (exporter.reopening() is not None) is wanted
        exporter.close()


def test_sighup_is_answered_by_drain() -> None:
    calls: list[int] = []
    before = signal.getsignal(signal.SIGHUP)
    with StopSignals(lambda: calls.append(1)) as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert select.select([stop], [], [], 10)[0]
        assert not calls
        stop.drain()
        assert (calls, stop.received) == ([1], False)
        stop.drain()
        assert calls == [1]
    assert signal.getsignal(signal.SIGHUP) == before


def test_sighup_ends_nothing_where_there_is_nothing_to_reopen() -> None:
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert select.select([stop], [], [], 10)[0]
        stop.drain()
        assert not stop.received


def test_the_feed_tells_of_interfaces_in_its_interval(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    owners = ContainerOwners()
    exporter = Exporter(RunConfig(), owners, Metering())
    exporter.open([f"json://{path}"])
    feed = Feed(exporter, owners, UserNames(), False, lambda: [Interface(1, "lo")], 60.0)
    for now in (1000.0, 1030.0, 1061.0):
        feed.tick(now)
    drain(exporter)
    feed.close()
    exporter.close()
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert sum("ifName" in line for line in found) == 2


class Known(KnownContainers):
    def patience_s(self, in_pod: bool = False) -> float:
        return 1000.0

    def close(self) -> None: ...


def listening(*ports: int, owner: int = 0, gone: int = 0) -> Rows:
    rows = np.zeros(len(ports), SOCKET_DTYPE)
    rows["local_port"] = rows["cookie"] = ports
    rows["owner"], rows["gone"] = owner, gone
    rows["ip_version"], rows["protocol"], rows["netns_inode"] = 4, 6, 4026531840
    rows["local_address"][:, :4] = (10, 1, 2, 3)
    return rows


def chosen_sockets(include: str, owners: ContainerOwners) -> ChosenSockets:
    return ChosenSockets(FlowFilter([parse_rule(include)]), owners)


NOBODY = np.zeros(0, np.int64)


@pytest.mark.parametrize(
    ("rule", "told"),
    [("port=80", [80]), ("port=80-90", [80, 90]), ("cidr=10.1.0.0/16", [80, 90, 443]),
     ("cidr=192.0.2.0/24", []), ("protocol=udp", []), ("process=nginx", [443])],
)  # fmt: skip
def test_rules_hold_for_open_sockets(rule: str, told: list[int]) -> None:
    owners = ContainerOwners()
    nginx = owners.add(Owner(Process(name="nginx")))
    chosen = chosen_sockets(rule, owners)
    came = np.concatenate([listening(80, 90), listening(443, owner=nginx)])
    assert chosen.choose(came, NOBODY)["local_port"].tolist() == told
    left = chosen.choose(listening(80, 90, 443, gone=1), NOBODY)
    assert left["local_port"].tolist() == told  # an unreported socket has no reported end


@pytest.mark.parametrize(
    ("rule", "is_included", "is_excluded"),
    [("cidr=10.77.0.0/16", True, False), ("cidr=0.0.0.0/0", True, True),
     ("cidr=2001:db8::/32", False, False), ("cidr=10.77.0.0/16,port=81", False, False),
     ("port=80", True, True)],
)  # fmt: skip
def test_a_socket_that_is_bound_to_all_addresses(
    rule: str, is_included: bool, is_excluded: bool
) -> None:
    owners, sockets = ContainerOwners(), listening(80)
    sockets["local_address"] = 0
    include, exclude = FlowFilter([parse_rule(rule)]), FlowFilter(exclude=[parse_rule(rule)])
    assert len(include.select_sockets(sockets, owners)) == is_included
    assert len(exclude.select_sockets(sockets, owners)) == (not is_excluded)


def test_a_socket_waits_for_the_name_of_its_container() -> None:
    runtime = Known()
    owners = ContainerOwners((runtime,))
    web, other = (owners.add(Owner(container=Container(name * 64))) for name in "ab")
    chosen = chosen_sockets("container=web", owners)
    came = np.concatenate([listening(80, owner=web), listening(90, owner=other)])
    assert not len(chosen.choose(came, owners.nameless(1.0)))
    assert chosen.owners_in_use() == {web, other}
    runtime.add("a" * 64, ContainerNames(name="web"))
    owners.refresh()
    assert chosen.choose(listening(), owners.nameless(2.0))["local_port"].tolist() == [80]
    # A socket that closes while it waits is never reported.
    assert not len(chosen.choose(listening(90, gone=1), owners.nameless(3.0)))
    assert chosen.choose(listening(80, gone=1), NOBODY)["gone"].tolist() == [1]
    assert not chosen.owners_in_use()


def test_a_sink_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"destination json:///.*No such file"):
        open_exporter(f"json://{tmp_path}/missing/lines")
