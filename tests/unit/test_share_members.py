"""Tests which members of a group get flows while one of them is away and comes back."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from probe.config import RunConfig
from probe.export.sink import Sink
from probe.run.exporter import Exporter
from tests.support.records import Metering, flow_records, owner_table

_PAUSE_S = 0.6  # longer than the first pause before a retry


def is_down(stream: Sink) -> bool:
    return stream.is_down


@pytest.fixture
def sinks() -> Iterator[list[socket.socket]]:
    found = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for one in found:
        one.bind(("127.0.0.1", 0))
    yield found
    for one in found:
        one.close()


def test_who_was_away_is_tried_with_templates_before_it_gets_flows(
    sinks: list[socket.socket],
) -> None:
    ports = [one.getsockname()[1] for one in sinks]
    exporter = Exporter(RunConfig(), owner_table(), Metering())
    exporter.open([f"ipfix://127.0.0.1:{port}?share=hash&pace=0" for port in ports])
    away = exporter.sinks[1]
    records = flow_records(200)

    def tick(now: float) -> tuple[int, int]:
        """Returns the Flow Records sent to each member. Dropped ones are counted in ``away``."""
        before = [stream.statistics.sent_flow_records for stream in exporter.sinks]
        exporter.send(records, time.time())
        exporter.pump(now)
        exporter.pump(now)
        after = [stream.statistics.sent_flow_records for stream in exporter.sinks]
        return after[0] - before[0], after[1] - before[1]

    now = time.monotonic()
    first = tick(now)
    assert min(first) > 0.3 * len(records)
    assert sum(first) == len(records)
    sinks[1].close()
    tick(now)
    tick(now)
    assert is_down(away)
    lost = away.statistics.dropped_flow_records
    for attempt in range(1, 4):
        now += _PAUSE_S * 2**attempt
        exporter.pump(now)
        assert not is_down(away), "it has a socket again"
        assert tick(now) == (len(records), 0)
        assert is_down(away), "its Templates were refused"
    assert away.statistics.dropped_flow_records == lost
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
        back.bind(("127.0.0.1", ports[1]))
        now += 20
        exporter.pump(now)
        assert tick(now) == (len(records), 0)
        for _ in range(2):
            now += 1.5
            exporter.pump(now)
        assert away.is_reliable
        assert tick(now) == first
    exporter.close()


def test_when_all_were_away_nobody_waits(sinks: list[socket.socket]) -> None:
    ports = [one.getsockname()[1] for one in sinks]
    exporter = Exporter(RunConfig(), owner_table(), Metering())
    exporter.open([f"ipfix://127.0.0.1:{port}?share=hash&pace=0" for port in ports])
    for one in sinks:
        one.close()
    now = time.monotonic()
    records = flow_records(100)
    for _ in range(3):
        exporter.send(records, time.time())
        exporter.pump(now)
    assert all(stream.is_down for stream in exporter.sinks)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
        back.bind(("127.0.0.1", ports[1]))
        now += _PAUSE_S
        exporter.pump(now)
        exporter.send(records[np.arange(50)], time.time())
        exporter.pump(now)
        assert 0 < exporter.sinks[1].statistics.sent_flow_records <= 50
    exporter.close()
