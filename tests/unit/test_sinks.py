"""Sinks of events beside streams: who is given what, and SIGHUP."""

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
from probe.errors import ConfigError
from probe.exporting import Exporter
from probe.flow.event import EVENT_DTYPE, SOCKET_DTYPE
from probe.interfaces.table import Link
from probe.sinks.feed import Feed
from probe.stop import StopSignals
from tests.json_schema import check_line
from tests.records import NOW_S, Metering, flow_records, owner_table


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
    exporter.send_interfaces([Link(1, "lo")], NOW_S)
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
    with StopSignals():
        assert signal.getsignal(signal.SIGHUP) == before


def test_the_feed_tells_of_interfaces_in_its_interval(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    owners = owner_table()
    exporter = Exporter(RunConfig(), owners, Metering())
    exporter.open([f"json://{path}"])
    feed = Feed(exporter, owners, False, lambda: [Link(1, "lo")], 60.0)
    for now in (1000.0, 1030.0, 1061.0):
        feed.tick(now)
    drain(exporter)
    feed.close()
    exporter.close()
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert sum("ifName" in line for line in found) == 2


def test_a_sink_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"destination json:///.*No such file"):
        open_exporter(f"json://{tmp_path}/missing/lines")
