"""Accepts and reads connections of exporters over TCP or TLS (RFC 7011 sections 10.4 and 11).

A stream that is not IPFIX ends its own connection and is counted. The memory of a connection is
bounded: one incomplete message, and as many Templates as the Collecting Process allows. A
connection without messages is closed after a while, or when an exporter needs its place.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import selectors
import socket
import time
from collections.abc import Callable

from probe.collector.address import Listen
from probe.collector.admission import FIRST_MESSAGE_S, find_victim, is_full
from probe.collector.connection import Connection, Peer
from probe.collector.message_source import MOST_OCTETS, MOST_RECORDS, bind
from probe.errors import DecodeError
from probe.ipfix.decode import CollectingProcess, Decoded

_log = logging.getLogger(__name__)

_BACKLOG = 128
_HANDSHAKE_S = 10.0
_ROUNDS = 4  # calls of receive per connection and turn
_MALFORMED_IN_A_ROW = 5
_WARN_S = 10.0
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


class CollectorConnections:
    """A listener and its connections, which a selector can wait for as one.

    Raises ConfigError if it cannot listen on ``listen``.
    """

    def __init__(self, listen: Listen, process: CollectingProcess) -> None:
        self._open = _opener(listen)
        self._process = process
        self._connections: dict[int, Connection] = {}
        self._serials = itertools.count()
        self._last = -1  # the descriptor that was served last
        self._warned_s: dict[str, float] = {}
        self.refused = self.displaced = self.silent = self.broken = self.failed_handshakes = 0
        self._spare = os.open(os.devnull, os.O_RDONLY)  # freed to accept when none is left
        self._listener = bind(listen)
        self._listener.listen(_BACKLOG)
        self._selector = selectors.EpollSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)

    @property
    def address(self) -> tuple[str, int]:
        name: tuple[str, int] = self._listener.getsockname()[:2]
        return name

    def fileno(self) -> int:
        return self._selector.fileno()

    def receive(self) -> Decoded:
        """Returns the records of some of the waiting messages."""
        found = Decoded([], [])
        ready = sorted(key.fd for key, _ in self._selector.select(0))
        left = MOST_OCTETS
        for descriptor in sorted(ready, key=lambda number: (number <= self._last, number)):
            if descriptor == self._listener.fileno():
                self._accept()
            elif left > 0 and _count(found) < MOST_RECORDS:
                if connection := self._connections.get(descriptor):  # it may be closed by now
                    left -= self._serve(connection, found)
                self._last = descriptor
        self._end_silent()
        return found

    def losses(self) -> dict[str, int]:
        return {
            "broken streams": self.broken,
            "failed handshakes": self.failed_handshakes,
            "connections refused": self.refused,
            "silent connections closed": self.silent,
            "connections closed for others": self.displaced,
        }

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        os.close(self._spare)
        self._selector.close()
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(_BACKLOG):
            try:
                accepted, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # it is gone, or no descriptor is left
                self.refused += 1
                self._warn("refused", f"a connection could not be accepted: {error.strerror}")
                if error.errno in _NO_DESCRIPTOR:
                    self._refuse_with_spare()
                return
            peer = str(address[0]), int(address[1]), next(self._serials)
            if is_full(self._connections.values(), peer[0]) and not self._make_room(peer[0]):
                accepted.close()
                continue
            try:
                connection = self._open(accepted, peer, time.monotonic())
            except OSError as error:  # the exporter reset it before
                accepted.close()
                self.failed_handshakes += 1
                self._warn("handshake", f"{peer[0]} port {peer[1]}: no connection: {error}")
                continue
            self._connections[connection.socket.fileno()] = connection
            self._selector.register(connection.socket, connection.awaits)

    def _make_room(self, host: str) -> bool:
        """Closes a connection for a new one from ``host``. Returns False to refuse the new one."""
        count = len(self._connections)
        victim = find_victim(self._connections.values(), host)
        if victim is None:
            self.refused += 1
            self._warn("refused", f"{host}: connection refused, {count} are open and in use")
            return False
        self.displaced += 1
        whom = f"{victim.peer[0]} port {victim.peer[1]}"
        self._warn("displaced", f"{whom}: closed for one of {host}, since {count} are open")
        self._close(victim)
        return True

    def _refuse_with_spare(self) -> None:
        """Ends a waiting connection, which would otherwise wake the selector again and again."""
        os.close(self._spare)
        with contextlib.suppress(OSError):
            self._listener.accept()[0].close()
        self._spare = os.open(os.devnull, os.O_RDONLY)

    def _serve(self, connection: Connection, found: Decoded) -> int:
        """Reads a connection. Returns the number of octets; the connection may be closed then."""
        received = rounds = 0
        try:
            while connection.has_more or (rounds < _ROUNDS and _count(found) < MOST_RECORDS):
                rounds += 1
                octets = connection.receive()
                if octets is None:
                    break
                received += len(octets)
                if not octets:
                    self._end(connection)
                    return received
                self._decode(connection, octets, found)
        except (DecodeError, OSError) as error:
            self._break(connection, str(error))
            return received
        if self._selector.get_key(connection.socket).events != connection.awaits:
            self._selector.modify(connection.socket, connection.awaits)
        return received

    def _decode(self, connection: Connection, octets: bytes, found: Decoded) -> None:
        """Adds the records of ``octets`` to ``found``.

        Raises DecodeError if the rest of the stream cannot be read.
        """
        for offset, message in connection.stream.feed(octets):
            decoded = self._process.decode_message(message, connection.peer, is_reliable=True)
            found.flows.extend(decoded.flows)
            found.options.extend(decoded.options)
            if not decoded.losses:
                connection.malformed_in_a_row = 0
                connection.is_proven, connection.heard_s = True, time.monotonic()
                continue
            _log.debug("%s: message at offset %d: %s", connection.peer, offset, decoded.losses)
            connection.malformed_in_a_row += 1
            if connection.malformed_in_a_row >= _MALFORMED_IN_A_ROW:
                raise DecodeError(decoded.losses[0])

    def _end(self, connection: Connection) -> None:
        if connection.stream.unread:
            self._break(connection, "it ended within a message")
        else:
            self._close(connection)

    def _break(self, connection: Connection, reason: str) -> None:
        host, port, _ = connection.peer
        if connection.is_ready:
            self.broken += 1
            self._warn("broken", f"{host} port {port}: stream given up: {reason}")
        else:
            self.failed_handshakes += 1
            self._warn("handshake", f"{host} port {port}: no TLS connection: {reason}")
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        del self._connections[connection.socket.fileno()]
        self._selector.unregister(connection.socket)
        self._process.forget(connection.peer)
        connection.close()

    def _end_silent(self) -> None:
        now_s = time.monotonic()
        for connection in list(self._connections.values()):
            if not connection.is_ready and connection.since_s < now_s - _HANDSHAKE_S:
                self._break(connection, "the handshake took too long")
            elif not connection.is_proven and connection.since_s < now_s - FIRST_MESSAGE_S:
                self.silent += 1
                who = f"{connection.peer[0]} port {connection.peer[1]}"
                self._warn("silent", f"{who}: closed, no message in {FIRST_MESSAGE_S:g} s")
                self._close(connection)

    def _warn(self, kind: str, text: str) -> None:
        """Logs one line per burst of a ``kind``. Further cases are only counted."""
        now_s = time.monotonic()
        if now_s - self._warned_s.get(kind, float("-inf")) >= _WARN_S:
            self._warned_s[kind] = now_s
            _log.warning("%s", text)


def _count(found: Decoded) -> int:
    return len(found.flows) + len(found.options)


def _opener(listen: Listen) -> Callable[[socket.socket, Peer, float], Connection]:
    if not listen.is_tls:
        return Connection
    from probe.collector.tls import TlsConnection, server_context

    context = server_context(listen)
    return lambda accepted, peer, since_s: TlsConnection(accepted, peer, since_s, context)
