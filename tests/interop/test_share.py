"""Flows shared over two collectors by the real probe."""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path

import pytest
from lab import Host

from tests.interop.collectors import Collect
from tests.interop.programs import probing, wait_until
from tests.interop.test_transports import HURRY, assert_same, records, settle
from tests.interop.workload import Workload


@pytest.fixture(scope="module")
def workload(hosts: tuple[Host, Host]) -> Workload:
    return Workload(hosts)


def keys(collector: Collect) -> set[object]:
    return {flow.key for flow in collector.flows()}


def open_members(folder: Path, stack: contextlib.ExitStack) -> list[Collect]:
    """Two that share, and a witness of all."""
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


def test_flows_of_a_killed_collector_go_to_the_other(workload: Workload, tmp_path: Path) -> None:
    """Nothing is lost but what was on its way when it died, though it is tried again and again."""
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


def _play(workload: Workload) -> bool:
    workload.datagrams(2)
    return True


def _name(collector: Collect) -> str:
    return f"ipfix://{collector.host}:{collector.port}"
