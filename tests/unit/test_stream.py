"""Tests that records wait for the pace as records, and that no destination gets other ones."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from probe.config import RunConfig
from probe.export.message_sink import MessageSink
from probe.export.sink_factory import SinkFactory
from probe.flow.owner import OwnerTable
from probe.interfaces.names import InterfaceList
from probe.ipfix.decode import CollectingProcess
from probe.mapping import load_elements
from probe.run.destinations import open_sink, parse_destination
from tests.support.records import NOW_S, Metering, flow_records, owner_table

_COUNT = 20_000


@pytest.fixture
def sink() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        # the system may give less, which is enough
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        yield receiver


def open_stream(port: int, query: str = "", owners: OwnerTable | None = None) -> MessageSink:
    factory = SinkFactory(
        RunConfig(), owners or owner_table(), Metering(), InterfaceList(), boot_s=NOW_S - 100
    )
    sink = open_sink(parse_destination(f"ipfix://127.0.0.1:{port}{query}"), factory)
    assert isinstance(sink, MessageSink)
    return sink


def test_what_waits_is_no_message_yet(sink: socket.socket) -> None:
    stream = open_stream(sink.getsockname()[1], "?pace=1000000")
    records = flow_records(_COUNT)
    stream.send(records, NOW_S)
    now = 1024.0
    assert stream.pump(now) is not None
    assert stream.statistics.sent_octets <= 64_000
    assert stream.session.statistics.data_records < _COUNT / 2
    assert stream.backlog > records.nbytes / 2
    assert stream.owners_in_use() == {1, 2, 3, 4}
    while (due := stream.pump(now)) is not None:
        now = due
    statistics = stream.statistics
    assert statistics.sent_flow_records == _COUNT
    assert stream.backlog == 0
    assert stream.owners_in_use() == set()
    assert now - 1024.0 == pytest.approx(statistics.sent_octets / 1e6, abs=0.1), "the pace"
    stream.close()
    assert statistics.dropped_records == 0


def test_all_arrive_once_and_in_sequence(sink: socket.socket) -> None:
    stream = open_stream(sink.getsockname()[1])
    decoder = CollectingProcess(load_elements())
    found: list[int] = []
    now = time.monotonic()
    for part in range(4):
        records = flow_records(_COUNT)[part::4]
        stream.send(records, NOW_S + part)
        while (due := stream.pump(now)) is not None:
            now = due
            found += read_all(sink, decoder)
    found += read_all(sink, decoder)
    assert sorted(found) == list(range(1, _COUNT + 1))
    assert decoder.statistics.lost_records == 0
    stream.close()


def read_all(sink: socket.socket, decoder: CollectingProcess) -> list[int]:
    """Returns the flowId of each record."""
    found: list[int] = []
    while True:
        try:
            octets = sink.recv(65535)
        except BlockingIOError:
            return found
        found += [int(record["flowId"]) for record in decoder.decode(octets, "exporter")]


def test_the_rest_is_counted_when_it_ends(sink: socket.socket) -> None:
    stream = open_stream(sink.getsockname()[1], "?pace=1000000")
    records = flow_records(_COUNT)
    stream.send(records, NOW_S)
    stream.pump(1024.0)
    stream.finish(NOW_S + 1)
    assert stream.owners_in_use() == set()
    stream.close()
    statistics = stream.statistics
    assert 0 < statistics.sent_flow_records < statistics.dropped_flow_records
    assert statistics.sent_flow_records + statistics.dropped_flow_records == _COUNT
    assert 0 < statistics.dropped_packets < int(records["packets"].sum())


def test_the_room_is_bounded(sink: socket.socket) -> None:
    """Records beyond it become messages. Those without room among the messages are dropped."""
    stream = open_stream(sink.getsockname()[1], "?pace=1000000")
    records = np.tile(flow_records(_COUNT), 20)
    for _ in range(3):
        stream.send(records, NOW_S)
    assert 32 << 20 < stream.backlog <= 64 << 20
    statistics = stream.statistics
    assert statistics.dropped_flow_records > _COUNT
    stream.close()
    assert statistics.sent_flow_records + statistics.dropped_flow_records == 3 * len(records)


def test_a_collector_that_is_back_gets_templates_before_what_waited(sink: socket.socket) -> None:
    port = sink.getsockname()[1]
    stream = open_stream(port)
    now = time.monotonic()
    stream.send(flow_records(10), NOW_S)
    stream.pump(now)
    sink.close()
    for _ in range(3):
        stream.send(flow_records(10), NOW_S)
        stream.pump(now)
    assert stream.is_down
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
        back.bind(("127.0.0.1", port))
        back.setblocking(False)
        stream.pump(now + 60)
        stream.send(flow_records(_COUNT), NOW_S)
        stream.pump(now + 61)
        assert stream.owners_in_use(), "some still wait"
        decoder = CollectingProcess(load_elements())
        assert len(read_all(back, decoder)) > 100
        assert decoder.statistics.unknown_sets == 0
    stream.close()
