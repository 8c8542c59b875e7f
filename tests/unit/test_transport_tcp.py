"""Tests the TCP sender against collectors on loopback: sessions, breaks, backlog and loss."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator

import pytest

from probe.export.transports.connection import TcpConnection
from probe.export.transports.destination import Destination
from probe.export.transports.sender import StreamSender
from probe.export.transports.tcp import TcpSender
from probe.run.destinations import parse_destination
from tests.support.transport import (
    TEMPLATES,
    Collector,
    begin_session,
    collecting,
    drive,
    numbers,
    train,
    unused_port,
)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


def sender_to(port: int, queue_octets: int = 1 << 20) -> TcpSender:
    return TcpSender(Destination("ipfix+tcp", "127.0.0.1", port, 16384), queue_octets)


def begin(sender: TcpSender) -> None:
    """Begins a session and waits until its Templates have arrived."""
    drive(sender, lambda: sender.statistics.sent_messages == 1)


def test_messages_arrive_whole_behind_the_templates(collector: Collector) -> None:
    sender = TcpSender(parse_destination(f"ipfix+tcp://127.0.0.1:{collector.port}"))
    assert isinstance(sender, StreamSender)
    sender.enqueue([train(0, 3), train(3, 1, 50)])
    drive(sender, lambda: sender.statistics.sent_messages == 5)
    assert sender.max_message == 16384
    assert not sender.needs_templates(), "only once"
    address = sender.local_address()
    assert address is not None
    assert address[0] == "127.0.0.1"
    sender.enqueue([train(4, 700, 1400)])
    assert sender.flush(time.monotonic() + 5)
    sender.close()
    assert sender.local_address() is None
    collector.wait(lambda: collector.ended == 1)
    assert numbers(collector.connections[0]) == [TEMPLATES, *range(704)]
    statistics = sender.statistics
    assert (statistics.sent_messages, statistics.sent_records) == (705, 704)
    assert statistics.sent_octets == len(collector.connections[0])
    assert (statistics.dropped_messages, statistics.errors) == (0, 0)


def test_nothing_leaves_before_the_session_was_begun(collector: Collector) -> None:
    sender = sender_to(collector.port)
    sender.enqueue([train(0, 5)])
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        sender.pump(time.monotonic())
        time.sleep(0.01)
    collector.wait(lambda: collector.connections == [b""])
    assert not sender.flush(time.monotonic() + 1), "a session waits for its Templates"
    assert sender.backlog == 500, "which flush does not throw away"
    assert begin_session(sender)
    assert sender.flush(time.monotonic() + 5)
    sender.close()
    collector.wait(lambda: collector.ended == 1)
    assert numbers(collector.connections[0]) == [TEMPLATES, *range(5)]


def test_many_messages_leave_in_few_calls(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def write(self: TcpConnection, pieces: list[memoryview]) -> int:
        calls.append(sum(map(len, pieces)))
        return real(self, pieces)

    real = TcpConnection.write
    monkeypatch.setattr(TcpConnection, "write", write)
    sender = sender_to(collector.port)
    sender.enqueue([train(n, 1) for n in range(2000)])
    drive(sender, lambda: sender.statistics.sent_messages == 2001)
    assert len(calls) < 100
    sender.close()


def test_a_collector_that_restarts_gets_the_backlog_complete(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    first = Collector()
    sender = sender_to(first.port)
    sender.enqueue([train(0, 10)])
    drive(sender, lambda: first.received() == 1060)
    first.stop()
    drive(sender, lambda: sender.is_down)
    assert sender.local_address() is None
    for number in range(10, 60):
        sender.enqueue([train(number, 1)])
        sender.pump(time.monotonic())
    assert sender.backlog == 5000
    second = Collector(first.address)
    drive(sender, lambda: sender.statistics.sent_messages == 62)
    assert not sender.is_down
    second.wait(lambda: second.received() == 5060)
    assert numbers(first.connections[0]) == [TEMPLATES, *range(10)]
    assert numbers(second.connections[0]) == [TEMPLATES, *range(10, 60)]
    assert sender.statistics.dropped_messages == 0
    assert sender.statistics.bursts == 1
    warnings = {r.getMessage() for r in caplog.records if r.levelno == logging.WARNING}
    url = f"ipfix+tcp://127.0.0.1:{first.port}"
    assert f"{url}: the collector closed the connection; trying again" in warnings
    assert warnings <= {caplog.messages[0], f"{url}: Connection refused; trying again"}
    sender.pump(time.monotonic() + 3)
    assert caplog.messages[-1].endswith("reachable again")
    sender.close()
    second.stop()


def test_an_idle_connection_that_ends_is_noticed(collector: Collector) -> None:
    sender = sender_to(collector.port)
    drive(sender, lambda: sender.statistics.sent_messages == 1)
    assert sender.pump(time.monotonic()) is None, "nothing waits"
    collector.hang_up()
    drive(sender, lambda: sender.statistics.errors == 1)
    drive(sender, lambda: len(collector.connections) == 2)
    drive(sender, lambda: sender.statistics.sent_messages == 2)
    collector.wait(lambda: collector.received(1) == 60)
    assert numbers(collector.connections[1]) == [TEMPLATES]
    sender.close()


def test_a_refused_connection_keeps_the_backlog(caplog: pytest.LogCaptureFixture) -> None:
    sender = sender_to(unused_port(), queue_octets=1000)
    now = time.monotonic()
    for step in range(40):
        sender.enqueue([train(step, 1)])
        sender.pump(now + step * 0.25)
        time.sleep(0.001)
    statistics = sender.statistics
    assert sender.is_down
    assert not sender.needs_templates()
    assert 2 <= statistics.errors < 10, "the pauses grow"
    assert statistics.bursts == 1
    assert sender.backlog == 1000, "the oldest are kept"
    assert (statistics.dropped_messages, statistics.dropped_records) == (30, 30)
    assert (statistics.dropped_packets, statistics.dropped_octets) == (300, 30_000)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert "Connection refused; trying again" in warnings[0]
    assert "1000 octets wait already" in warnings[1]
    assert not sender.flush(time.monotonic() + 5), "nothing to wait for"
    sender.close()
    assert statistics.dropped_messages == 40
    assert sender.backlog == 0


def test_a_collector_that_never_reads_costs_its_own_messages_only() -> None:
    with collecting(reads=False) as collector:
        sender = sender_to(collector.port, queue_octets=8 << 20)
        given = 0
        drive(sender, lambda: sender.statistics.sent_messages == 1)
        for _ in range(300):
            sender.enqueue([train(given, 64, 1400)])
            given += 64
            before = time.monotonic()
            sender.pump(before)
            assert time.monotonic() - before < 0.3
        statistics = sender.statistics
        assert statistics.dropped_messages > 1000
        assert 4 << 20 < sender.backlog <= 8 << 20
        due = sender.pump(time.monotonic())
        assert due is not None
        assert not sender.flush(time.monotonic() + 0.1)
        started = time.monotonic()
        sender.close()
        assert time.monotonic() - started < 1
        assert statistics.sent_messages + statistics.dropped_messages == given + 1
        assert statistics.sent_messages < 1000, "what was not acknowledged does not count as sent"


def test_a_full_buffer_is_not_looked_at_all_the_time() -> None:
    with collecting(reads=False) as collector:
        sender = sender_to(collector.port, queue_octets=16 << 20)
        drive(sender, lambda: sender.statistics.sent_messages == 1)
        sender.enqueue([train(0, 64, 16384) for _ in range(15)])
        pauses = []
        for _ in range(12):
            now = time.monotonic()
            due = sender.pump(now)
            assert due is not None
            pauses.append(due - now)
        assert pauses[-1] == pytest.approx(0.05)
        sender.close()


def test_what_was_not_acknowledged_goes_to_the_next_connection() -> None:
    """The collector ends with a full buffer. Every message arrives or is counted."""
    first = Collector(reads=False)
    sender = sender_to(first.port, queue_octets=16 << 20)
    drive(sender, lambda: sender.statistics.sent_messages == 1)
    sender.enqueue([train(0, 4000, 1400)])
    sender.pump(time.monotonic())
    assert sender.backlog == 4000 * 1400, "what the kernel took has not arrived"
    first.stop()
    second = Collector(first.address)
    statistics = sender.statistics
    drive(sender, lambda: statistics.sent_messages + statistics.dropped_messages == 4002)
    sender.close()
    second.wait(lambda: second.ended == 1)
    arrived = second.numbers
    assert statistics.dropped_messages <= 1, "the message that had arrived in part"
    assert arrived == list(range(4000 - len(arrived), 4000)), "in order, none twice"
    assert len(arrived) > 3900, "all but what fitted into the first one's buffer"
    settled = statistics.sent_messages - len(arrived) - 2
    assert settled + statistics.dropped_messages == 4000 - len(arrived)
    second.stop()


def test_one_that_takes_nothing_hangs_and_one_that_is_slow_does_not() -> None:
    """So a probe that ends waits for the slow collector only, until it has everything."""
    hanging, slow = Collector(reads=False), Collector(reads=False, sips=4096)
    senders = [sender_to(one.port, queue_octets=16 << 20) for one in (hanging, slow)]
    for sender in senders:
        begin(sender)
        sender.enqueue([train(0, 600, 1400)])
    ended: set[int] = set()
    now = time.monotonic()
    while len(ended) < 2:
        assert time.monotonic() - now < 60
        for number, sender in enumerate(senders):
            due = sender.pump(time.monotonic())
            if sender.is_down or not sender.backlog:
                ended.add(number)
            else:
                assert due is not None, "somebody has to look whether it arrives"
        if 1 not in ended:
            assert not senders[1].is_down
        time.sleep(0.01)
    assert senders[0].is_down
    assert not senders[0].is_reliable
    assert senders[0].backlog
    assert senders[1].statistics.sent_messages == 601
    for sender in senders:
        sender.close()
    assert senders[1].statistics.dropped_messages == 0
    assert senders[0].statistics.dropped_messages > 0
    for collector in (hanging, slow):
        collector.stop()


def test_a_name_with_two_addresses_falls_back_to_the_second(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, collector.port))
        for host in ("127.0.0.2", "127.0.0.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    sender = TcpSender(Destination("ipfix+tcp", "two.example", collector.port))
    sender.enqueue([train(0, 1)])
    drive(sender, lambda: sender.statistics.sent_messages == 2, patience_s=2)
    assert sender.statistics.errors == 1
    sender.close()


def test_a_name_that_cannot_be_looked_up_never_blocks(caplog: pytest.LogCaptureFixture) -> None:
    sender = TcpSender(Destination("ipfix+tcp", "no-such-host.invalid", 4739))
    sender.enqueue([train(0, 1)])
    drive(sender, lambda: sender.is_down)
    assert sender.backlog == 100
    assert "cannot look up the name" in caplog.text
    sender.close()


def test_a_collector_that_never_answers_is_given_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full queue of connections drops the SYN, as a firewall does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        with socket.create_connection(address):
            sender = sender_to(address[1])
            now = time.monotonic()
            due = sender.pump(now)
            assert due is not None
            assert now < due < now + 0.1
            sender.pump(now + 11)
            assert sender.is_down
            assert "no answer within 10 s" in caplog.text
            sender.close()


def test_ipv6() -> None:
    with collecting(address=("::1", 0)) as collector:
        sender = TcpSender(parse_destination(f"ipfix+tcp://[::1]:{collector.port}"))
        sender.enqueue([train(0, 3)])
        drive(sender, lambda: sender.statistics.sent_messages == 4)
        assert sender.local_address() is not None
        sender.close()
        collector.wait(lambda: collector.ended == 1)
        assert collector.numbers == [0, 1, 2]


def test_what_a_collector_says_is_not_kept(collector: Collector) -> None:
    sender = sender_to(collector.port)
    drive(sender, lambda: sender.statistics.sent_messages == 1)
    collector.wait(lambda: collector.connections)
    collector.say(b"hello" * 1000)
    sender.enqueue([train(0, 1)])
    drive(sender, lambda: sender.statistics.sent_messages == 2)
    sender.close()
    collector.wait(lambda: collector.ended == 1)
    assert collector.errors == [], "closing with unread octets would have reset the connection"


def test_errors_of_the_kernel_name_themselves() -> None:
    with pytest.raises(OSError, match=r"unreachable|denied|Invalid") as refused:
        TcpConnection((socket.AF_INET, ("255.255.255.255", 1)), 0.0)
    assert refused.value.errno
