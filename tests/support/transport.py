"""Makes collectors on loopback, and messages, for tests of senders."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from probe.export.transports.sender import StreamSender
from probe.ipfix.message import Train

#: Stands for the Templates at the begin of a session.
TEMPLATES = 0xFFFFFFFF
PATIENCE_S = 60.0
_POLL_S = 0.02
_PATTERN = bytes(range(251)) * 270


def message(number: int, size: int = 100) -> bytes:
    """Returns a message with ``number`` as its sequence, whose body shows any misplaced octet."""
    start = number % 251
    body = _PATTERN[start : start + size - 16]
    return struct.pack("!HHIII", 10, size, 0, number, 1) + body


def train(first: int, count: int, size: int = 100) -> Train:
    """Returns messages from ``first`` on, of one record each."""
    octets = b"".join(message(first + n, size) for n in range(count))
    return Train(memoryview(octets), size, np.ones(count, np.int64), 10 * count, 1000 * count)


def template_train() -> Train:
    return Train(memoryview(message(TEMPLATES, 60)), 60, np.zeros(1, np.int64))


def numbers(octets: bytes) -> list[int]:
    """Returns the numbers of messages in ``octets``; asserts that all are intact."""
    found, at = [], 0
    while at < len(octets):
        size, number = struct.unpack_from("!2xH4xI", octets, at)
        assert octets[at : at + size] == message(number, size)
        found.append(number)
        at += size
    return found


def begin_session(sender: StreamSender) -> bool:
    """Does what the Exporting Process does every tick; returns True if a session began."""
    if not sender.needs_templates():
        return False
    sender.enqueue([template_train(), *sender.take_backlog()])
    return True


def drive(sender: Any, until: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Runs ``sender`` as the loop does until ``until`` holds."""
    deadline = time.monotonic() + patience_s
    while not until():
        now = time.monotonic()
        assert now < deadline, "it took too long"
        due = sender.pump(now)
        assert time.monotonic() - now < 10, "the loop was blocked"
        if isinstance(sender, StreamSender):
            begin_session(sender)
        time.sleep(min(max((due or now) - time.monotonic(), 0.0), 0.01))


class Collector:
    """Accepts one connection after the other, and keeps the octets of each."""

    def __init__(
        self,
        address: tuple[str, int] = ("127.0.0.1", 0),
        context: ssl.SSLContext | None = None,
        reads: bool = True,
        sips: int = 0,
    ) -> None:
        """``sips``: where it does not read, it reads so many octets now and then."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not reads:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listener.bind(address)
        self._listener.listen()
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self.connections: list[bytes] = []
        #: The number of connections that ended, and the errors of TLS.
        self.ended = 0
        self.errors: list[str] = []
        self._context, self._reads, self._sips = context, reads, sips
        self._current: socket.socket | None = None
        self._stopped, self._hang_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self.address[1]

    @property
    def numbers(self) -> list[int]:
        """Returns the numbers of all connections, without the Templates."""
        return [n for octets in self.connections for n in numbers(octets) if n != TEMPLATES]

    def received(self, connection: int = 0) -> int:
        """Returns the octets of the connection of this number so far."""
        found = self.connections[connection : connection + 1]
        return len(found[0]) if found else 0

    def wait(self, until: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not until():
            assert time.monotonic() < deadline, "it took too long"
            time.sleep(0.002)

    def say(self, octets: bytes) -> None:
        assert self._current is not None
        self._current.send(octets)

    def hang_up(self) -> None:
        """Closes the current connection, as a process does that ends."""
        self._hang_up.set()
        self.wait(lambda: not self._hang_up.is_set())

    def stop(self) -> None:
        """Stops listening."""
        self._stopped.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self._listener.close()

    def _run(self) -> None:
        self._listener.settimeout(_POLL_S)
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            try:
                self._serve(connection)
            except OSError as error:
                self.errors.append(str(error))
            finally:
                connection.close()
            self._current = None
            self.ended += 1

    def _serve(self, connection: socket.socket) -> None:
        if self._context:
            connection.settimeout(PATIENCE_S)
            connection = self._context.wrap_socket(connection, server_side=True)
        connection.settimeout(_POLL_S)
        self._current = connection
        with connection:
            self.connections.append(b"")
            while not self._stopped.is_set() and not self._hang_up.is_set():
                if not self._reads:
                    time.sleep(_POLL_S)
                    if not self._sips:
                        continue
                try:
                    octets = connection.recv(self._sips or 65536)
                except TimeoutError:
                    continue
                if not octets:
                    return
                self.connections[-1] += octets
        self._hang_up.clear()


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def collecting(**options: Any) -> Iterator[Collector]:
    collector = Collector(**options)
    try:
        yield collector
    finally:
        collector.stop()
