"""Handles one TCP connection to a collector. Only ``finish`` blocks, for a short time."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import socket
import struct
import termios
import time

from probe.export.transports.resolve import Address

#: Time in which the connection and its TLS session must be established.
_OPEN_S = 10.0
#: The path or the collector's host counts as lost if it acknowledges nothing for this time, or if
#: keepalive probes of an idle connection stay unanswered. The kernel's own limits are hours.
_SILENCE_MS = 60_000
_LIMITS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_MS),
]
#: At the end, octets that the collector's host has not acknowledged within this time count as lost.
_CLOSE_S = 0.5
_CLOSE_POLL_S = 0.002
_READ_OCTETS = 16384
#: Reads in one ``listen``. A collector sends nothing in IPFIX; what it sends is read and dropped.
_MOST_READS = 16


class TcpConnection:
    """A non-blocking connection. Its methods raise OSError with the reason if it fails or ends."""

    def __init__(self, address: Address, now: float) -> None:
        family, name = address
        self._give_up_at = now + _OPEN_S
        self._is_connected = self._is_shut = False
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setblocking(False)
            for limit in _LIMITS:
                self._socket.setsockopt(*limit)
            code = self._socket.connect_ex(name)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
        except OSError:
            self._socket.close()
            raise

    @property
    def local_address(self) -> tuple[str, int]:
        address: tuple[str, int] = self._socket.getsockname()[:2]
        return address

    @property
    def held(self) -> int:
        """Octets written that the kernel has not taken yet; ``listen`` gives them to it."""
        return 0

    def open(self, now: float) -> bool:
        """Continues to open the connection. Returns True once messages may be sent."""
        if not self._is_connected:
            self._is_connected = self._connect()
        if self._is_connected and self._agree(now):
            return True
        if now > self._give_up_at:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer within {_OPEN_S:.0f} s")
        return False

    def _agree(self, now: float) -> bool:
        """Does what the layer above TCP needs before messages. Returns True once that is done."""
        return True

    def _connect(self) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        if not poll.poll(0):
            return False
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        return True

    def write(self, pieces: list[memoryview]) -> int:
        """Returns the octets of ``pieces`` that the kernel took; 0 if its buffer is full."""
        try:
            return self._socket.sendmsg(pieces)
        except BlockingIOError:
            return 0

    def listen(self) -> None:
        """Raises OSError if the collector has closed or reset the connection."""
        for _ in range(_MOST_READS):
            if self._receive() is None:
                return

    def _receive(self) -> bytes | None:
        """Returns what arrived, or None if there is nothing yet."""
        try:
            octets = self._socket.recv(_READ_OCTETS)
        except BlockingIOError:
            return None
        if not octets:
            raise ConnectionResetError(errno.ECONNRESET, "the collector closed the connection")
        return octets

    def unacknowledged(self) -> int:
        """Returns the octets written that the collector's host has not acknowledged."""
        return self._unacknowledged_by_host()

    def _unacknowledged_by_host(self) -> int:
        waiting = array.array("i", [0])
        fcntl.ioctl(self._socket, termios.TIOCOUTQ, waiting)  # SIOCOUTQ, tcp(7)
        return max(0, waiting[0] - self._is_shut)  # a FIN counts as one

    def finish(self) -> int:
        """Ends the sending side, and waits shortly for acknowledgements.

        Returns the octets that were not acknowledged.
        """
        give_up_at = time.monotonic() + _CLOSE_S
        try:
            self._say_goodbye()
            while time.monotonic() < give_up_at:
                self.listen()
                if not self._is_shut and not self.held:
                    self._socket.shutdown(socket.SHUT_WR)
                    self._is_shut = True
                if self._is_shut and not self._unacknowledged_by_host():
                    break
                time.sleep(_CLOSE_POLL_S)
        except OSError:
            pass  # the collector may have closed first
        return self.unacknowledged()

    def _say_goodbye(self) -> None:
        """Sends the end of the session in the layer above TCP."""

    def abort(self) -> None:
        """Closes with a reset, so that nothing more is delivered.

        What is unacknowledged is sent over the next connection, and must not arrive twice.
        """
        linger = struct.pack("ii", 1, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._socket.close()

    def close(self) -> None:
        self._socket.close()
