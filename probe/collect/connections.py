"""Connections of exporters over TCP or TLS (RFC 7011 sections 10.4 and 11), any number of them.

A stream that is no IPFIX ends its own connection and is counted. What a connection can make us keep
is one message that is not complete, and the Templates that the Collecting Process allows it.
"""

from __future__ import annotations

import itertools
import logging
import selectors
import socket
import time
from collections.abc import Callable

from probe.collect.address import Listen
from probe.collect.connection import Connection, Peer
from probe.collect.source import bind
from probe.errors import DecodeError
from probe.ipfix.decode import CollectingProcess, Decoded

_log = logging.getLogger(__name__)

_MAX_CONNECTIONS = 512  # half of the descriptors that a process may have by default
_BACKLOG = 128
_HANDSHAKE_S = 10.0
_ROUNDS = 4  # receives per connection and turn
_TURN_OCTETS = 2 << 20  # in one turn of all: what is decoded is some times larger
_MALFORMED_IN_A_ROW = 5
_WARN_S = 10.0


class CollectorConnections:
    """Listens as ``listen`` says; ConfigError when it cannot. A selector can wait for it."""

    def __init__(self, listen: Listen, process: CollectingProcess) -> None:
        self._open = _opener(listen)
        self._process = process
        self._connections: dict[int, Connection] = {}
        self._serials = itertools.count()
        self._last = -1  # descriptor that was served last
        self._warned_s = float("-inf")
        self.refused = self.broken = self.failed_handshakes = 0
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
        """Records of some of the messages that wait."""
        found = Decoded([], [])
        ready = sorted(key.fd for key, _ in self._selector.select(0))
        left = _TURN_OCTETS
        for descriptor in sorted(ready, key=lambda number: (number <= self._last, number)):
            if descriptor == self._listener.fileno():
                self._accept()
            elif left > 0:
                left -= self._serve(self._connections[descriptor], found)
                self._last = descriptor
        self._end_slow_handshakes()
        return found

    def losses(self) -> dict[str, int]:
        return {
            "broken streams": self.broken,
            "failed handshakes": self.failed_handshakes,
            "connections refused": self.refused,
        }

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._selector.close()
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(_BACKLOG):
            try:
                accepted, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # gone again, or no descriptor left
                self.refused += 1
                self._warn(f"a connection could not be accepted: {error.strerror}")
                return
            if len(self._connections) >= _MAX_CONNECTIONS:
                accepted.close()
                self.refused += 1
                self._warn(f"{address[0]}: refused, {_MAX_CONNECTIONS} connections are open")
                continue
            peer = str(address[0]), int(address[1]), next(self._serials)
            connection = self._open(accepted, peer, time.monotonic())
            self._connections[connection.socket.fileno()] = connection
            self._selector.register(connection.socket, connection.awaits)

    def _serve(self, connection: Connection, found: Decoded) -> int:
        """Octets received. The connection may be closed afterwards."""
        received = rounds = 0
        try:
            while rounds < _ROUNDS or connection.has_more:
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
        """DecodeError when the stream cannot be followed any further."""
        for offset, message in connection.stream.feed(octets):
            decoded = self._process.decode_message(message, connection.peer, is_reliable=True)
            found.flows.extend(decoded.flows)
            found.options.extend(decoded.options)
            if not decoded.losses:
                connection.malformed_in_a_row = 0
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
            self._warn(f"{host} port {port}: stream given up: {reason}")
        else:
            self.failed_handshakes += 1
            self._warn(f"{host} port {port}: no TLS connection: {reason}")
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        del self._connections[connection.socket.fileno()]
        self._selector.unregister(connection.socket)
        self._process.forget(connection.peer)
        connection.close()

    def _end_slow_handshakes(self) -> None:
        before_s = time.monotonic() - _HANDSHAKE_S
        for connection in list(self._connections.values()):
            if not connection.is_ready and connection.since_s < before_s:
                self._break(connection, "the handshake took too long")

    def _warn(self, text: str) -> None:
        """One line per burst: what follows is counted."""
        if (now := time.monotonic()) - self._warned_s >= _WARN_S:
            self._warned_s = now
            _log.warning("%s", text)


def _opener(listen: Listen) -> Callable[[socket.socket, Peer, float], Connection]:
    if not listen.is_tls:
        return Connection
    from probe.collect.tls import TlsConnection, server_context

    context = server_context(listen)
    return lambda accepted, peer, since_s: TlsConnection(accepted, peer, since_s, context)
