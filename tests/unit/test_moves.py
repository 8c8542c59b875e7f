"""Tests when a destination's name counts as moved. A resolver of the test looks it up."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from probe.export.transports.destination import Destination
from probe.export.transports.reach import Reach
from probe.export.transports.statistics import SendStatistics
from probe.export.transports.udp import UdpSender
from tests.support.transport import train

PORT = 4739
LOOK_UP_S = 60.0


class Resolver:
    """Stands in for getaddrinfo: returns ``hosts`` once ``may_answer`` is set."""

    def __init__(self) -> None:
        self.hosts: list[str] = ["127.0.0.1"]
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked = 0

    def __call__(self, _: str, port: int, flags: int = 0, **__: object) -> list[Any]:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        self.asked += 1
        assert self.may_answer.wait(30)
        if not self.hosts:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (one, port)) for one in self.hosts]


#: Threads that other tests have left.
_others: set[threading.Thread] = set()


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    _others.update(threading.enumerate())
    found = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", found)
    yield found
    found.may_answer.set()


def wait_for(true: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def reached(resolver: Resolver) -> Reach:
    reach = Reach(Destination("ipfix", "collector.example", PORT), SendStatistics(), LOOK_UP_S)
    wait_for(lambda: reach.next_address(0.0))
    assert resolver.asked == 1
    return reach


def looked_up(reach: Reach, now: float) -> bool:
    """Returns the result of the look-up that is due at ``now``."""
    is_moved = reach.has_moved(now)
    wait_for(lambda: not set(threading.enumerate()) - _others)
    return is_moved or reach.has_moved(now)


def test_a_name_is_looked_up_now_and_then_only(resolver: Resolver) -> None:
    reach = reached(resolver)
    assert not any(reach.has_moved(now) for now in (0.0, 30.0, 59.9))
    assert resolver.asked == 1
    assert not looked_up(reach, 60.0)
    assert not reach.has_moved(119.0)
    assert resolver.asked == 2


def test_an_address_that_is_still_there_is_kept(resolver: Resolver) -> None:
    reach = reached(resolver)
    resolver.hosts = ["127.0.0.9", "127.0.0.1"]
    assert not looked_up(reach, 60.0)


def test_another_address_is_taken_at_once(resolver: Resolver) -> None:
    reach = reached(resolver)
    resolver.hosts = ["127.0.0.9", "127.0.0.8"]
    assert looked_up(reach, 60.0)
    assert reach.next_address(60.0) == (socket.AF_INET, ("127.0.0.9", PORT))
    assert not looked_up(reach, 120.0)


def test_a_look_up_in_vain_says_nothing(resolver: Resolver) -> None:
    reach = reached(resolver)
    resolver.hosts = []
    assert not looked_up(reach, 60.0)
    resolver.hosts = ["127.0.0.9"]
    assert looked_up(reach, 120.0)


def test_a_resolver_that_hangs_is_not_waited_for(resolver: Resolver) -> None:
    reach = reached(resolver)
    resolver.may_answer.clear()
    resolver.hosts = ["127.0.0.9"]
    started = time.monotonic()
    assert not any(reach.has_moved(60.0 + minute * 60) for minute in range(100))
    assert time.monotonic() - started < 5
    wait_for(lambda: resolver.asked == 2)
    resolver.may_answer.set()
    assert looked_up(reach, 6060.0)


def test_no_thread_to_be_had_is_a_look_up_in_vain(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    reach = reached(resolver)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not reach.has_moved(60.0)
        assert not reach.has_moved(60.0)


def test_what_waits_goes_to_the_new_address_behind_its_templates(resolver: Resolver) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as old,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as new,
    ):
        old.bind(("127.0.0.1", 0))
        port = old.getsockname()[1]
        new.bind(("127.0.0.9", port))
        for one in (old, new):
            one.settimeout(20)
        target = Destination("ipfix", "collector.example", port, pace=100_000)
        destination = UdpSender(target, look_up_s=LOOK_UP_S)
        now = time.monotonic()
        wait_for(lambda: destination.pump(now) is None and destination.local_address())
        assert destination.needs_templates()
        assert destination.first_sequence(1) is None
        destination.enqueue([train(0, 2000)])
        destination.pump(now)
        assert len(old.recv(2000)) == 100
        resolver.hosts = ["127.0.0.9"]
        sent = destination.statistics.sent_messages
        destination.pump(now + 61)
        wait_for(lambda: destination.pump(now + 61) and destination.needs_templates())
        assert destination.first_sequence(1) == 0
        after = destination.statistics.sent_messages
        backlog = destination.take_backlog()
        assert sum(map(len, backlog)) == 2000 - after, "nothing leaves before the Templates"
        assert after >= sent
        destination.enqueue([train(5000, 1, 50), *backlog])
        destination.pump(now + 200)
        assert len(new.recv(2000)) == 50
        assert len(new.recv(2000)) == 100
        destination.close()
