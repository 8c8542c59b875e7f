"""One accepted connection: octets in, whole messages out. TLS is in ``tls``."""

from __future__ import annotations

import contextlib
import selectors
import socket

from probe.ipfix.stream import MessageStream

RECEIVE_OCTETS = 65536

#: Host, port, and a number of the connection, so that its Templates end with it.
Peer = tuple[str, int, int]


class Connection:
    """A socket that does not block.

    ``awaits`` is what a selector must wait for; ``is_ready`` turns True after the handshake, and
    ``is_proven`` with the first message that could be read. ``heard_s`` is when the last one came.
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
        """Octets that came, b'' at the end of the stream, None when none wait; OSError."""
        try:
            return self.socket.recv(RECEIVE_OCTETS)
        except (BlockingIOError, InterruptedError):
            return None

    @property
    def has_more(self) -> bool:
        """Whether octets wait that a selector cannot see."""
        return False

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()
