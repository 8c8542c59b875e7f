"""Tests a capture of real sessions with the strict reader: traffic, refresh and restart."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.interop.collectors import Capture
from tests.support.interop.flows import TCP, UDP, Flow, assert_near, flow_of, sent_by
from tests.support.interop.workload import INCLUDE, Workload
from tests.support.lab.hosts import Host
from tests.support.programs import Datagrams, Program, ipfix, probing
from tests.support.reader import ON_A_BUSY_MACHINE_S, StrictReader
from tests.support.reader.capture import read_capture

#: Times of one second each, so that all time-outs happen here.
_HURRY = ("--template-refresh", 1, "--active-timeout", 1, "--idle-timeout", 1, "--interval", 0.2,
          *INCLUDE)  # fmt: skip
#: Strings of options are padded, for nfdump. Type records have two strings of variable length,
#: for libfixbuf; the profile for nfdump has no type records.
_MEANT = ("value.nul", "advice.strings")


@dataclass
class Captured:
    file: Path
    port: int
    workload: Workload

    @cached_property
    def reader(self) -> StrictReader:
        """Reads the capture.

        Templates are repeated every second, so one that is a minute old has expired.
        """
        reader = StrictReader(refresh_s=60, skew_s=ON_A_BUSY_MACHINE_S)
        read_capture(reader, self.file, self.port)
        reader.finish()
        return reader

    def records(self) -> list[dict[str, Any]]:
        """Returns the records of flows."""
        return list(self.reader.flows())

    def flows(self) -> list[Flow]:
        return list(map(flow_of, self.records()))


@pytest.fixture(scope="module")
def captured(
    hosts: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Captured]:
    """Yields two runs of the probe, one after the other, with the same collector."""
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
    """Runs the probe once.

    The chat program is stopped between runs, so that all traffic is metered.
    """
    with probing(folder, "-e", ipfix(port), *_HURRY, name=name) as probe:
        if name == "first":
            workload.begin()
        chat.process.send_signal(signal.SIGCONT)
        workload.play(100)
        time.sleep(2.5)  # silent flows now end by the idle timeout
        workload.datagrams(20)
        chat.process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        assert probe.stop() == 0, probe.errors
        assert "lost: nothing" in probe.errors


def test_no_rule_is_broken(captured: Captured) -> None:
    """Both runs keep RFC 7011, 7012 and 5610, and avoid what collectors cannot read."""
    assert captured.reader.broken(but=_MEANT) == []
    assert captured.reader.totals["repeated templates"] >= 6
    assert len({one.domain for one in captured.reader.records}) == 1


def test_every_kind_of_end(captured: Captured) -> None:
    """Idle timeout, active timeout, end of flow and forced end.

    Lack of resources is not provoked here.
    """
    assert {record["flowEndReason"] for record in captured.records()} >= {1, 2, 3, 4}


@pytest.mark.parametrize("way", ["client to server", "server to client"])
def test_deltas_of_both_runs_sum_to_nfts_counters(captured: Captured, way: str) -> None:
    """A flow may have many records. The second run does not count the first one's totals again."""
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
