"""One TCP connection to a collector, never waited for but when it ends."""

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

#: To connect, and to agree on TLS.
_OPEN_S = 10.0
#: The path or the collector's host is gone when nothing was acknowledged for so long, or when
#: probes of an idle connection stay unanswered; the kernel's own limits are hours.
_SILENCE_MS = 60_000
_LIMITS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_MS),
]
#: At the end, what the collector's host has not acknowledged by then counts as lost.
_CLOSE_S = 0.5
_CLOSE_POLL_S = 0.002
_READ_OCTETS = 16384
#: A collector has nothing to say: what it says anyway is read in such portions, and not kept.
_MOST_READS = 16


class TcpConnection:
    """Raises OSError, which says why, where the connection fails or ends."""

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
        """Octets written that the kernel has not taken; ``listen`` hands them on."""
        return 0

    def open(self, now: float) -> bool:
        """Go on with opening; whether messages may be sent."""
        if not self._is_connected:
            self._is_connected = self._connect()
        if self._is_connected and self._agree(now):
            return True
        if now > self._give_up_at:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer within {_OPEN_S:.0f} s")
        return False

    def _agree(self, now: float) -> bool:
        """What the layer above TCP has to do before messages; whether it is done."""
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
        """Octets of ``pieces`` that the kernel took; 0 when its buffer is full."""
        try:
            return self._socket.sendmsg(pieces)
        except BlockingIOError:
            return 0

    def listen(self) -> None:
        """Notice the collector's end of the connection, or its reset."""
        for _ in range(_MOST_READS):
            if self._receive() is None:
                return

    def _receive(self) -> bytes | None:
        """What arrived; None: nothing yet."""
        try:
            octets = self._socket.recv(_READ_OCTETS)
        except BlockingIOError:
            return None
        if not octets:
            raise ConnectionResetError(errno.ECONNRESET, "the collector closed the connection")
        return octets

    def unacknowledged(self) -> int:
        """Octets written that the collector's host has not acknowledged."""
        return self._unacknowledged_by_host()

    def _unacknowledged_by_host(self) -> int:
        waiting = array.array("i", [0])
        fcntl.ioctl(self._socket, termios.TIOCOUTQ, waiting)  # SIOCOUTQ, tcp(7)
        return max(0, waiting[0] - self._is_shut)  # a FIN counts as one

    def finish(self) -> int:
        """Say that this was all, and wait a little; octets that were not acknowledged."""
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
            pass  # the collector may have been faster
        return self.unacknowledged()

    def _say_goodbye(self) -> None:
        """What the layer above TCP ends with."""

    def abort(self) -> None:
        """Close, and deliver nothing more: what is unacknowledged goes to the next connection."""
        linger = struct.pack("ii", 1, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._socket.close()

    def close(self) -> None:
        self._socket.close()
