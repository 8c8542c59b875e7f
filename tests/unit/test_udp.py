"""Tests the UDP sender against sockets on loopback: pace, lost collectors and narrow paths."""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from probe.export.transports.datagram import DatagramSocket
from probe.export.transports.destination import DEFAULT_PACE, Destination
from probe.export.transports.pacing import TokenBucket
from probe.export.transports.queue import DatagramQueue
from probe.export.transports.statistics import SendStatistics
from probe.export.transports.udp import UdpSender
from probe.ipfix.message import Train


@pytest.fixture
def sink() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(2)
        yield receiver


def destination_of(receiver: socket.socket, pace: int = DEFAULT_PACE) -> Destination:
    return Destination("ipfix", "127.0.0.1", receiver.getsockname()[1], pace=pace)


def train(count: int, size: int = 100, records: int | None = None) -> Train:
    octets = b"".join(bytes([n % 256]) * size for n in range(count))
    counts = np.ones(count, np.int64)
    counts[-1] += 0 if records is None else records - count
    return Train(memoryview(octets), size, counts)


def received(receiver: socket.socket, count: int) -> list[bytes]:
    return [receiver.recv(65535) for _ in range(count)]


def test_messages_arrive_as_they_are(sink: socket.socket) -> None:
    destination = UdpSender(destination_of(sink))
    assert destination.needs_templates()
    assert not destination.needs_templates()
    destination.enqueue([train(3), train(1, 50)])
    assert destination.pump(time.monotonic()) is None
    assert [(len(one), one[0]) for one in received(sink, 4)] == [
        (100, 0),
        (100, 1),
        (100, 2),
        (50, 0),
    ]
    statistics = destination.statistics
    assert (statistics.sent_messages, statistics.sent_octets, statistics.sent_records) == (
        4,
        350,
        4,
    )
    address = destination.local_address()
    assert address is not None
    assert address[0] == "127.0.0.1"
    destination.close()
    assert destination.local_address() is None


def test_a_call_takes_more_messages_than_fit_into_it(sink: socket.socket) -> None:
    """150 messages leave, at most 64 in a call. The last one is shorter."""
    destination = UdpSender(destination_of(sink))
    whole = train(150)
    destination.enqueue([Train(whole.octets[:-40], whole.size, whole.counts)])
    assert destination.pump(time.monotonic()) is None
    found = received(sink, 150)
    assert [(len(one), one[0]) for one in found[:-1]] == [(100, place) for place in range(149)]
    assert found[-1] == bytes([149]) * 60
    assert destination.statistics.sent_messages == 150
    destination.close()


def test_a_call_in_vain_says_why(sink: socket.socket) -> None:
    sender = DatagramSocket((socket.AF_INET, sink.getsockname()))
    with pytest.raises(OSError, match="Message too long") as caught:
        sender.send(train(2, 65_530), 0, 2)
    assert caught.value.errno == errno.EMSGSIZE
    sender.close()


def test_without_pace_the_kernel_cuts_trains(sink: socket.socket) -> None:
    destination = UdpSender(destination_of(sink, pace=0))
    destination.enqueue([train(150)])
    assert destination.pump(time.monotonic()) is None
    assert [one[0] for one in received(sink, 150)] == list(range(150))
    destination.close()


def test_pace_bounds_octets_over_time(sink: socket.socket) -> None:
    destination = UdpSender(destination_of(sink, pace=100_000))
    destination.enqueue([train(2000)])
    now = 1024.0  # the sums below are exact in binary
    due = destination.pump(now)
    assert destination.statistics.sent_octets == 64_000, "one burst"
    assert due == pytest.approx(now + 0.64, abs=0.01)
    destination.pump(now + 0.125)
    assert destination.statistics.sent_octets == 76_500
    assert destination.pump(now + 60) is not None
    assert destination.statistics.sent_octets == 140_500, "no more than a burst is saved up"
    destination.close()
    assert destination.statistics.dropped_messages == 595


def test_segmentation_within_a_pace(sink: socket.socket) -> None:
    """One call sends many messages, and each is its own datagram."""
    target = replace(destination_of(sink, pace=1_000_000), segmentation=True)
    destination = UdpSender(target)
    destination.enqueue([train(100), train(3, size=50)])
    destination.pump(1024.0)
    messages = received(sink, 103)
    assert [len(message) for message in messages] == [100] * 100 + [50] * 3
    assert destination.statistics.sent_messages == 103
    destination.close()


def test_token_bucket() -> None:
    bucket = TokenBucket(1000, burst=500)
    assert bucket.allowance(10.0) == 500
    bucket.spend(500)
    assert bucket.allowance(10.1) == pytest.approx(100)
    assert bucket.due(10.1) == pytest.approx(10.5)
    assert bucket.allowance(9.0) == pytest.approx(100), "time never runs backwards"
    assert TokenBucket(0).allowance(1.0) == float("inf")


def test_the_queue_is_bounded_and_counts_exactly() -> None:
    statistics = SendStatistics()
    queue = DatagramQueue(1000, statistics)
    assert queue.offer(train(9))
    assert not queue.offer(train(2))
    assert queue.offer(train(1))
    seen = []
    while queue.left:
        seen.append((queue.left, queue.at, queue.octets))
        queue.leave(min(4, queue.left))
    assert seen == [(9, 0, 1000), (5, 4, 600), (1, 8, 200), (1, 0, 100)]
    assert queue.octets == 0
    assert not queue
    assert (statistics.sent_messages, statistics.sent_octets, statistics.sent_records) == (
        10,
        1000,
        10,
    )
    whole = train(10, records=33)
    whole = Train(whole.octets[:-30], whole.size, whole.counts, 1000, 77777)
    assert queue.offer(whole)
    queue.leave(2)
    assert statistics.sent_messages == 10, "counted when somebody looks"
    queue.count()
    assert statistics.sent_messages == 12
    queue.leave(1)
    assert queue.offer(train(2))
    parts = [queue.drop(), queue.drop()]
    assert (statistics.sent_messages, statistics.sent_octets, statistics.sent_records) == (
        13,
        1300,
        13,
    )
    assert statistics.sent_flow_records == 3
    assert (queue.octets, queue.left) == (670, 5)
    parts += queue.drain()
    assert (queue.octets, queue.left) == (0, 0)
    assert not queue
    assert [len(part) for part in parts] == [1, 1, 5, 2]
    assert [part.records for part in parts] == [1, 1, 28, 2], "each message keeps its own records"
    assert [len(part.octets) for part in parts] == [100, 100, 470, 200]
    assert sum(part.packets for part in parts) == 1000 - 1000 * 3 // 33, "the share of its records"
    assert sum(part.flow_octets for part in parts) == 77777 - 77777 * 3 // 33
    assert statistics.sent_messages == 13


def test_bursts_are_what_pumps_would_send(sink: socket.socket) -> None:
    """Bursts send and count the same at the same times.

    The end of a train and errors are left to pump.
    """
    paced, other = (UdpSender(destination_of(sink, pace=100_000)) for _ in range(2))
    for destination in (paced, other):
        assert destination.burst(1024.0) is None, "nothing waits"
        destination.enqueue([train(2000), train(700)])
    due = paced.pump(1024.0)
    assert other.pump(1024.0) == due
    bursts = 0
    while due is not None:
        now = due
        assert paced.burst(now - 0.125) in (now, None), "not before it is due"
        if (by_burst := paced.burst(now)) is not None:
            bursts += 1
        due = other.pump(now)
        assert by_burst in (due, None)
        if by_burst is None:
            assert paced.pump(now) == due
        assert paced.statistics == other.statistics
        assert paced.backlog == other.backlog
    assert bursts == 2, "of 640 messages, beside those that pump sends at either end"
    assert paced.statistics.sent_messages == 2700
    for destination in (paced, other):
        destination.close()


def test_a_burst_in_vain_is_a_failure(sink: socket.socket) -> None:
    destination = UdpSender(destination_of(sink))
    destination.enqueue([train(3000)])
    now = 1024.0
    due = destination.pump(now)
    sink.close()
    assert due is not None
    assert destination.burst(due) is None, "the first message leaves, the second is told of it"
    due = destination.pump(due)
    assert due is not None
    assert destination.burst(due) is None
    assert destination.is_down
    assert destination.statistics.errors == 1
    sent, dropped = destination.statistics.sent_messages, destination.statistics.dropped_messages
    assert sent + dropped == 3000
    destination.close()


def test_without_a_pace_there_are_no_bursts(sink: socket.socket) -> None:
    destination = UdpSender(destination_of(sink, pace=0))
    destination.enqueue([train(3000)])
    assert destination.burst(1024.0) is None
    assert destination.statistics.sent_messages == 0
    destination.close()


def test_a_message_longer_than_a_burst_leaves_all_the_same(sink: socket.socket) -> None:
    target = replace(destination_of(sink), max_message=65_000)
    destination = UdpSender(target)
    destination.enqueue([train(2, 65_000)])
    now = 1024.0
    due = destination.pump(now)
    assert destination.statistics.sent_messages == 1
    assert due is not None
    destination.pump(due + 0.001)
    assert destination.statistics.sent_messages == 2
    destination.close()


def test_overflow_is_dropped_and_counted(sink: socket.socket) -> None:
    destination = UdpSender(destination_of(sink), queue_octets=1000)
    dropped = replace(train(8, records=80), packets=500, flow_octets=70_000)
    destination.enqueue([train(8, records=80), dropped, train(2)])
    assert destination.statistics.dropped_messages == 8
    assert destination.statistics.dropped_records == 80
    assert destination.statistics.dropped_packets == 500
    assert destination.statistics.dropped_octets == 70_000
    assert destination.backlog == 1000
    assert destination.flush(time.monotonic() + 1)
    assert destination.statistics.sent_messages == 10
    destination.close()


def test_an_absent_collector_is_counted_logged_once_and_found_again(
    sink: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    address = sink.getsockname()
    sink.close()
    destination = UdpSender(Destination("ipfix", *address))
    destination.needs_templates()
    now = time.monotonic()
    for step in range(60):
        destination.enqueue([train(1)])
        destination.pump(now + step * 0.25)
    statistics = destination.statistics
    assert statistics.errors >= 2
    assert statistics.bursts == 1
    assert statistics.sent_messages + statistics.dropped_messages == 60
    assert [record.levelname for record in caplog.records] == ["WARNING"]

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(address)
        again.settimeout(2)
        later = now + 60
        destination.pump(later)
        assert destination.needs_templates()
        destination.enqueue([train(1, 77)])
        assert destination.pump(later + 0.1) is None
        assert len(again.recv(100)) == 77
        destination.pump(later + 5)
    assert caplog.messages[-1].endswith("reachable again")
    destination.close()


def test_a_name_with_two_addresses_falls_back_to_the_second(
    sink: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = sink.getsockname()[1]
    found = [
        (socket.AF_INET, socket.SOCK_DGRAM, 17, "", (host, port))
        for host in ("127.0.0.2", "127.0.0.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    destination = UdpSender(Destination("ipfix", "two.example", port))
    now = time.monotonic()
    for step in range(10):
        destination.enqueue([train(1)])
        destination.pump(now + step * 0.1)
    assert len(sink.recv(1000)) == 100
    destination.close()


def test_a_name_that_cannot_be_looked_up_never_blocks(caplog: pytest.LogCaptureFixture) -> None:
    destination = UdpSender(Destination("ipfix", "no-such-host.invalid", 4739))
    destination.enqueue([train(1)])
    deadline = time.monotonic() + 10
    while not destination.is_down and time.monotonic() < deadline:
        destination.pump(time.monotonic())
        time.sleep(0.01)
    assert destination.is_down
    assert destination.statistics.dropped_messages == 1
    assert "cannot look up the name" in caplog.text
    assert not destination.flush(time.monotonic() + 0.1)


def test_a_narrow_path_lowers_the_message_size(
    sink: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(self: DatagramSocket, messages: Train, first: int, count: int) -> int:
        if messages.size > 1252:
            raise OSError(errno.EMSGSIZE, "Message too long")
        return real_send(self, messages, first, count)

    real_send = DatagramSocket.send
    monkeypatch.setattr(DatagramSocket, "send", send)
    monkeypatch.setattr(DatagramSocket, "path_room", lambda _: 1252)
    destination = UdpSender(destination_of(sink))
    destination.enqueue([train(2, 1400), train(1, 1252)])
    destination.pump(time.monotonic())
    assert destination.max_message == 1252
    assert destination.statistics.dropped_messages == 2
    assert len(sink.recv(2000)) == 1252
    destination.close()


def test_the_path_tells_its_room(sink: socket.socket) -> None:
    sender = DatagramSocket((socket.AF_INET, sink.getsockname()))
    assert sender.path_room() == 65_535 - 28
    assert sender.pending_error() is None
    sender.close()


def test_ipv6() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("::1", 0))
        receiver.settimeout(2)
        destination = UdpSender(Destination("ipfix", "::1", receiver.getsockname()[1], pace=0))
        destination.enqueue([train(5)])
        assert destination.pump(time.monotonic()) is None
        assert len(received(receiver, 5)) == 5
        address = destination.local_address()
        assert address is not None
        assert address[0] == "::1"
        destination.close()
