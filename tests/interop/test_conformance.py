"""A capture of real sessions before ../shared/tools/ipfix_check.py: traffic, refresh, restart."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from lab import Host

from tests.interop import checker
from tests.interop.collectors import Capture
from tests.interop.flows import TCP, UDP, Flow, assert_near, flow_of, sent_by
from tests.interop.programs import Datagrams, Program, ipfix, probing
from tests.interop.workload import INCLUDE, Workload

#: One second each, so that all of them happen here.
_HURRY = ("--template-refresh", 1, "--active-timeout", 1, "--idle-timeout", 1, "--interval", 0.2,
          *INCLUDE)  # fmt: skip
#: The checker holds data of the first run against the type records of the second; within one
#: run test_compressed_time.py demands it. And strings of options are padded, for nfdump's sake.
_RESTART = ("--ignore", "R.late,V.nul")


@dataclass
class Captured:
    file: Path
    port: int
    workload: Workload

    def check(self, *options: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        return checker.check(self.file, self.port, *_RESTART, *options)

    def records(self) -> list[dict[str, Any]]:
        """Of flows; names without the numbers."""
        lines = [line["record"] for line in self.check()[1] if not line["options"]]
        return [{key.partition("(")[0]: line[key] for key in line} for line in lines]

    def flows(self) -> list[Flow]:
        return list(map(flow_of, self.records()))


@pytest.fixture(scope="module")
def captured(
    hosts: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Captured]:
    """Two runs of the probe, one after the other, to the same collector."""
    checker.require()
    folder = tmp_path_factory.mktemp("conformance")
    workload = Workload(hosts)
    with contextlib.closing(Datagrams()) as target:
        with contextlib.closing(Capture(folder, target.port)) as capture:
            with workload.chatting(folder) as chat:
                for run in ("first", "second"):
                    chat.process.send_signal(signal.SIGSTOP)
                    _one_run(folder, target.port, workload, chat, run)
            capture.finish()
        yield Captured(capture.file, target.port, workload)


def _one_run(folder: Path, port: int, workload: Workload, chat: Program, name: str) -> None:
    """What chats is silent while no probe runs, so that all traffic is metered."""
    with probing(folder, "-e", ipfix(port), *_HURRY, name=name) as probe:
        if name == "first":
            workload.begin()
        chat.process.send_signal(signal.SIGCONT)
        workload.play(100)
        time.sleep(2.5)  # what is silent now ends by the idle timeout
        workload.datagrams(20)
        chat.process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        assert probe.stop() == 0, probe.errors
        assert "lost: nothing" in probe.errors


def test_no_error_and_no_warning(captured: Captured) -> None:
    """RFC 7011, 7012 and 5610, over both runs; Templates came again every second."""
    report, _ = captured.check("--resend", "3")
    assert report["issues"] == []
    assert report["summary"]["template_resends"] >= 6


def test_nothing_that_collectors_stumble_over(captured: Captured) -> None:
    report, _ = captured.check("--interop")
    assert report["issues"] == []


def test_every_kind_of_end(captured: Captured) -> None:
    """Idle, active timeout, end of flow and forced end; lack of resources is not provoked here."""
    assert {record["flowEndReason"] for record in captured.records()} >= {1, 2, 3, 4}


@pytest.mark.parametrize("way", ["client to server", "server to client"])
def test_deltas_of_both_runs_sum_to_nfts_counters(captured: Captured, way: str) -> None:
    """However often a flow was reported, and no total of the first run again in the second."""
    workload = captured.workload
    sender = workload.here if way == "client to server" else workload.there
    flows = captured.flows()
    assert sent_by(flows, sender, UDP) == workload.truth(sender, "udp")
    assert_near(sent_by(flows, sender, TCP), workload.truth(sender, "tcp"), 0.005)


def test_reports_of_one_flow_do_not_overlap(captured: Captured) -> None:
    spans: dict[object, list[tuple[int, int]]] = {}
    for record in captured.records():
        span = record["flowStartMilliseconds"], record["flowEndMilliseconds"]
        spans.setdefault((flow_of(record).key, record["flowId"]), []).append(span)
    assert max(map(len, spans.values())) >= 3
    for found in spans.values():
        found.sort()
        assert all(end <= start for (_, end), (start, _) in pairwise(found))
