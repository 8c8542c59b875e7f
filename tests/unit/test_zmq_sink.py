"""Tests the sink for ntopng against a SUB socket that reads as ntopng does."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import zmq

from probe.errors import ConfigError
from probe.export.sink import EventSink
from probe.flow.columns import EVENT_DTYPE
from probe.flow.owner import OwnerTable
from probe.ntopng.outbox import Outbox
from tests.support.ntopng.lab import Listen, Open, connected, flows_of, pump, pump_until
from tests.support.records import NOW_S, flow_records


def test_flows_of_a_probe_that_connects(open_: Open, listen: Listen) -> None:
    reader = listen(bind=True)
    sink = open_(f"zmq://127.0.0.1:{reader.port}")
    assert isinstance(sink, EventSink)
    assert sink.is_down
    records = flow_records(500)
    sink.send(records, NOW_S)  # there is no subscriber yet
    assert sink.backlog > 0
    reader.read_until(lambda: len(reader.flows) == 500, pump(sink))
    assert flows_of(reader) == int(records["octets"].sum())
    assert sink.backlog == 0
    assert sink.statistics.sent_flow_records == 500
    assert sink.statistics.sent_messages == len(reader.ids)
    assert sink.summary().endswith("with 500 flows, both directions in one")
    address = sink.local_address()
    assert address is not None
    assert address[0] == "127.0.0.1"
    assert address[1] != reader.port


def test_flows_of_a_probe_that_binds(open_: Open, listen: Listen) -> None:
    with zmq.Context() as context, context.socket(zmq.PUB) as taken:
        port = taken.bind_to_random_port("tcp://127.0.0.1")
    sink = open_(f"zmq://*:{port}?bind=1")
    reader = listen(f"tcp://127.0.0.1:{port}", prefixes=("flow", "event", "counter", "template"))
    sink.send(flow_records(50), NOW_S)
    reader.read_until(lambda: len(reader.flows) == 50 and reader.seen["event"], pump(sink))
    assert set(reader.seen) == {"flow", "event", "template"}
    assert sink.local_address() == ("127.0.0.1", port)


def test_an_address_that_is_taken(open_: Open, listen: Listen) -> None:
    reader = listen(bind=True)
    with pytest.raises(ConfigError, match=r"zmq://127.0.0.1:\d+: cannot bind it: Address already"):
        open_(f"zmq://127.0.0.1:{reader.port}?bind=1")


def test_message_ids_have_no_gaps_over_all_topics(open_: Open, listen: Listen) -> None:
    sink, reader = connected(open_, listen)
    for _ in range(20):
        sink.send(flow_records(100), NOW_S)
        sink.finish(NOW_S)
        sink.announce_interfaces()
    reader.read_until(lambda: len(reader.flows) == 2000 and not sink.backlog, pump(sink))
    assert sink.flush(time.monotonic() + 5)
    reader.read_until(lambda: len(reader.ids) == sink.statistics.sent_messages)
    assert reader.ids == list(range(reader.ids[0], reader.ids[0] + len(reader.ids)))
    assert len(reader.source_ids) == 1
    assert len(reader.seen) > 3


def keys(folder: Path) -> tuple[tuple[bytes, bytes], Path]:
    public, secret = zmq.curve_keypair()
    path = folder / "ntopng.key"
    path.write_bytes(public + b"\n")
    return (public, secret), path


@pytest.mark.parametrize("binds", [False, True])
def test_curve(open_: Open, listen: Listen, tmp_path: Path, binds: bool) -> None:
    """ntopng is the CURVE server, whichever side binds."""
    pair, path = keys(tmp_path)
    if binds:
        with zmq.Context() as context, context.socket(zmq.PUB) as taken:
            port = taken.bind_to_random_port("tcp://127.0.0.1")
        sink = open_(f"zmq://127.0.0.1:{port}?bind=1&curve={path}")
        reader = listen(f"tcp://127.0.0.1:{port}", curve=pair)
    else:
        sink, reader = connected(open_, listen, f"?curve={path}", curve=pair)
    sink.send(flow_records(30), NOW_S)
    reader.read_until(lambda: len(reader.flows) == 30, pump(sink))


def test_a_wrong_key_is_said_once(
    open_: Open, listen: Listen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, path = keys(tmp_path)
    reader = listen(bind=True, curve=zmq.curve_keypair())
    sink = open_(f"zmq://127.0.0.1:{reader.port}?curve={path}")
    reader.read_until(lambda: sink.statistics.errors, pump(sink))
    assert sink.is_down
    assert not reader.ids
    assert "CURVE" in caplog.text or "subscribes" in caplog.text


@pytest.mark.parametrize("text", ["", "short", "x" * 39 + "~", "é" * 20])
def test_files_that_hold_no_key(open_: Open, tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    with pytest.raises(ConfigError, match="40 characters of Z85"):
        open_(f"zmq://127.0.0.1:5556?curve={path}")
    with pytest.raises(ConfigError, match=r"cannot read .*: No such file"):
        open_(f"zmq://127.0.0.1:5556?curve={path}.not")


def test_nobody_listens(open_: Open, caplog: pytest.LogCaptureFixture) -> None:
    """The queue is bounded, the latest messages are dropped, and one warning reports it."""
    sink = open_("zmq://127.0.0.1:9?bind=0")
    sink.outbox._limit = 200_000
    for _ in range(10):
        sink.send(flow_records(200), NOW_S)
    counted = sink.statistics
    assert sink.backlog <= 200_000
    assert 0 < counted.dropped_flow_records < 2000
    assert counted.dropped_packets > 0
    now = time.monotonic()
    for after_s in (0, 4, 6, 7, 8):
        sink.pump(now + after_s)
    assert caplog.text.count("no ntopng subscribes to flows") == 1
    assert not sink.flush(time.monotonic() + 0.1)
    sink.outbox.drop()
    assert counted.dropped_flow_records == 2000
    assert counted.sent_messages == 0


def test_a_subscriber_that_is_too_slow(open_: Open, listen: Listen) -> None:
    """Its missing messages are counted here, and show as gaps in its numbers there."""
    sink, reader = connected(open_, listen, receive_messages=2, buffer_octets=4096)
    sink.outbox._limit = 3_000_000
    longest_s = 0.0
    while not sink.statistics.dropped_messages:
        sink.send(flow_records(3000), NOW_S)
        began = time.process_time()
        sink.pump(time.monotonic())
        longest_s = max(longest_s, time.process_time() - began)
    assert longest_s < 1
    dropped = sink.statistics.dropped_messages
    reader.read_until(lambda: not sink.backlog, pump(sink))
    assert sink.statistics.dropped_messages == dropped
    sink.finish(NOW_S)  # the next message shows ntopng the gap
    reader.read_until(
        lambda: len(reader.ids) == sink.statistics.sent_messages and not sink.backlog, pump(sink)
    )
    assert reader.dropped == dropped
    assert len(reader.flows) == sink.statistics.sent_flow_records
    octets = flows_of(reader) + sink.statistics.dropped_octets
    assert octets == sink._status._octets


def test_ntopng_goes_and_comes_back(open_: Open, listen: Listen) -> None:
    sink, first = connected(open_, listen)
    sink.send(flow_records(20), NOW_S)
    first.read_until(lambda: len(first.flows) == 20, pump(sink))
    first.close()
    pump_until(sink, lambda: sink.is_down)
    sink.send(flow_records(30), NOW_S)
    second = listen(f"tcp://127.0.0.1:{first.port}", bind=True)
    # Waiting messages come first.
    second.read_until(lambda: len(second.flows) == 30 and second.seen["template"], pump(sink))
    assert second.seen["template"] == 1
    assert second.ids[0] > first.ids[-1]
    assert second.dropped == 0
    assert sink.statistics.dropped_messages == 0


def test_a_second_ntopng_is_told_everything(open_: Open, listen: Listen) -> None:
    with zmq.Context() as context, context.socket(zmq.PUB) as taken:
        port = taken.bind_to_random_port("tcp://127.0.0.1")
    sink = open_(f"zmq://127.0.0.1:{port}?bind=1")
    for _ in range(2):
        reader = listen(f"tcp://127.0.0.1:{port}")
        reader.read_until(lambda r=reader: r.seen["template"] and r.seen["event"], pump(sink))  # type: ignore[misc]


def test_events_are_not_for_tlv(open_: Open, listen: Listen) -> None:
    sink, _ = connected(open_, listen)
    before = sink.outbox._next_id
    sink.send_events(np.zeros(5, EVENT_DTYPE), NOW_S)
    assert sink.outbox._next_id == before


def test_forgotten_owners_are_encoded_anew(open_: Open, listen: Listen) -> None:
    sink, reader = connected(open_, listen)
    records = flow_records(1, owners=1)
    sink.send(records, NOW_S)
    table = sink._encoder._sources._owners
    assert isinstance(table, OwnerTable)
    table.release(1)
    sink.forget([1])
    sink.send(records, NOW_S)
    reader.read_until(lambda: len(reader.flows) == 2, pump(sink))
    assert [flow.get("SRC_PROC_NAME", "") for flow in reader.flows] == ["worker-1", ""] or [
        flow.get("DST_PROC_NAME", "") for flow in reader.flows
    ] == ["worker-1", ""]


def test_ids_wrap(listen: Listen) -> None:
    sent: list[bytes] = []
    outbox = Outbox(7)
    outbox._next_id = 2**32 - 1
    for _ in range(3):
        outbox.add_json("event", b"{}")

    def send(header: bytes, _: bytes) -> bool:
        sent.append(header)
        return True

    assert outbox.send(send)
    assert [header[20:24].hex() for header in sent] == ["ffffffff", "00000000", "00000001"]
