"""Tests that strangers at the port for ntopng cannot take the probe's descriptors."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq

from probe.export.sink import Sink
from probe.ntopng.listener import (
    MOST_OF_ONE_ADDRESS,
    MOST_PEERS,
    MOST_SUBSCRIPTIONS,
    listen,
)
from tests.support.ntopng.lab import Listen, Open, flows_of, pump, pump_until
from tests.support.records import NOW_S, flow_records

#: The beginning of a ZMTP 3 peer: signature and version.
GREETING = b"\xff\0\0\0\0\0\0\0\0\x7f\3\0NULL" + b"\0" * 48


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def free_port() -> int:
    with zmq.Context() as context, context.socket(zmq.PUB) as taken:
        return taken.bind_to_random_port("tcp://127.0.0.1")


@pytest.fixture
def strangers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def come(
    stack: ExitStack, port: int, count: int, words: bytes = b"", source: str = "127.0.0.1"
) -> list[socket.socket]:
    found = []
    for _ in range(count):
        one = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        one.settimeout(60)
        one.bind((source, 0))
        one.connect(("127.0.0.1", port))
        one.sendall(words)
        found.append(one)
    return found


def pump_for(sink: Sink, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sink.pump(time.monotonic())
        time.sleep(0.01)


def test_silent_connections_take_no_descriptor(
    open_: Open, listen: Listen, strangers: ExitStack
) -> None:
    """Each of a thousand used to take one of the probe's descriptors, 1024 by default."""
    port = free_port()
    sink = open_(f"zmq://127.0.0.1:{port}?bind=1")
    before = descriptors()
    silent = come(strangers, port, 90)  # the backlog holds as many
    pump_for(sink, 0.5)
    assert descriptors() - before - len(silent) < 5
    reader = listen(f"tcp://127.0.0.1:{port}")
    sink.send(flow_records(50), NOW_S)
    reader.read_until(lambda: len(reader.flows) == 50, pump(sink))


def test_those_that_only_greet_are_ended_beyond_a_number(
    open_: Open, listen: Listen, strangers: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    sink = open_(f"zmq://*:{port}?bind=1")
    for last in range(1, 9):
        come(strangers, port, 20, GREETING, f"127.0.0.{last}")
        pump_for(sink, 0.1)
    pump_until(sink, lambda: len(established(port)) <= MOST_PEERS)
    assert "connections so far, the last from 127.0.0." in caplog.text
    records = flow_records(50)
    reader = listen(f"tcp://127.0.0.1:{port}")
    sink.send(records, NOW_S)
    reader.read_until(lambda: len(reader.flows) == 50, pump(sink))
    assert flows_of(reader) == int(records["octets"].sum())


def test_one_address_has_a_part_of_them_only(open_: Open, strangers: ExitStack) -> None:
    port = free_port()
    sink = open_(f"zmq://*:{port}?bind=1")
    come(strangers, port, 3 * MOST_OF_ONE_ADDRESS, GREETING, "127.0.0.5")
    pump_until(sink, lambda: len(established(port)) <= MOST_OF_ONE_ADDRESS)


@pytest.mark.parametrize("octets", [100, 5000])
def test_whoever_subscribes_to_very_much_is_ended(open_: Open, listen: Listen, octets: int) -> None:
    """The library keeps fifty times the octets of a subscription: 250 MB in a second once.

    ntopng stays.
    """
    port = free_port()
    sink = open_(f"zmq://*:{port}?bind=1")
    reader = listen(f"tcp://127.0.0.1:{port}")
    reader.read_until(lambda: not sink.is_down, pump(sink))
    with zmq.Context() as context, context.socket(zmq.SUB) as stranger:
        monitor = stranger.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        stranger.linger = 0
        stranger.connect(f"tcp://127.0.0.1:{port}")
        for number in range(3000):
            stranger.subscribe(b"%04d" % number + bytes(octets))
        pump_until(sink, lambda: monitor.poll(0))
        stranger.disable_monitor()
        monitor.close(0)
    pump_until(sink, lambda: len(sink._publisher._prefixes) <= MOST_SUBSCRIPTIONS)
    sink.send(flow_records(50), NOW_S)
    reader.read_until(lambda: len(reader.flows) == 50, pump(sink))


def established(port: int) -> list[str]:
    """Returns the remote addresses of the listening side's connections that are still open."""
    texts = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
    lines = [line.split() for text in texts for line in text.splitlines()[1:]]
    return [one[2] for one in lines if one[1].endswith(f":{port:04X}") and one[3] == "01"]


@pytest.mark.parametrize("host", ["*", "127.0.0.1", "::1", "localhost"])
def test_addresses(host: str) -> None:
    with listen(host, 0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1" if host == "*" else host, port)) as one:
            one.sendall(b"x")
