"""Receives the octets of one accepted connection. TLS is in ``tls``."""

from __future__ import annotations

import contextlib
import selectors
import socket

from probe.ipfix.stream import MessageStream

RECEIVE_OCTETS = 65536

#: Host, port, and the number of the connection. The number ends Templates with their connection.
Peer = tuple[str, int, int]


class Connection:
    """A connection, whose socket does not block.

    ``awaits`` has the events that a selector waits for. ``is_ready`` is True after the handshake,
    and ``is_proven`` after the first valid message. ``heard_s`` is the time of the last one.
    """

    def __init__(self, accepted: socket.socket, peer: Peer, since_s: float) -> None:
        self.peer = peer
        self.since_s = self.heard_s = since_s
        self.is_proven = False
        self.stream = MessageStream()
        self.malformed_in_a_row = 0
        self.awaits = selectors.EVENT_READ
        self.is_ready = True
        self.socket = accepted
        accepted.setblocking(False)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def receive(self) -> bytes | None:
        """Returns octets that came, b'' at the end of the stream, or None if none wait.

        Raises OSError if the connection has failed.
        """
        try:
            return self.socket.recv(RECEIVE_OCTETS)
        except (BlockingIOError, InterruptedError):
            return None

    @property
    def has_more(self) -> bool:
        """Returns True if octets wait that a selector cannot see."""
        return False

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()
