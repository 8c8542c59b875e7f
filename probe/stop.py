"""Makes SIGINT, SIGTERM, SIGHUP and requests of threads something that a selector can wait for."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """A context in which the first SIGINT or SIGTERM sets ``received`` and makes it readable.

    A second one acts as it would without this context, so that the user can end a slow stop. SIGHUP
    ends nothing: it makes this readable as well, and ``drain`` then calls ``reopen``, if any.
    """

    def __init__(self, reopen: Callable[[], None] | None = None) -> None:
        self.received = False
        self._reopen = reopen
        self._hung_up = False
        self._reader, self._writer = socket.socketpair()
        self._former: dict[int, Any] = {}
        self._former_wakeup = -1
        self._former_hangup: Any = signal.SIG_DFL

    def __enter__(self) -> StopSignals:
        self._writer.setblocking(False)
        self._former_wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._former = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        self._former_hangup = signal.signal(signal.SIGHUP, self._hang_up)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
        signal.signal(signal.SIGHUP, self._former_hangup)
        signal.set_wakeup_fd(self._former_wakeup)
        self._reader.close()
        self._writer.close()

    def fileno(self) -> int:
        return self._reader.fileno()

    def drain(self) -> None:
        """Reads the octets that woke the selector, and reopens files after a SIGHUP."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(64, socket.MSG_DONTWAIT)
        if self._hung_up:
            self._hung_up = False
            if self._reopen:
                self._reopen()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        self._restore()

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        self._hung_up = True

    def _restore(self) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former = {}


class StopRequest:
    """A stop by another thread: ``request`` sets ``received`` and makes this readable for good."""

    def __init__(self) -> None:
        self.received = False
        self._file = os.eventfd(0, os.EFD_CLOEXEC)
        self._closing = threading.RLock()  # a signal handler may interrupt it and call ``request``

    def request(self) -> None:
        """Requests a stop. Any thread may call it, repeatedly, also after ``close``."""
        self.received = True
        with self._closing:
            if self._file >= 0:
                os.eventfd_write(self._file, 1)

    def fileno(self) -> int:
        """Returns the descriptor, or -1 after ``close``."""
        return self._file

    def drain(self) -> None:
        """Does nothing, so that this stays readable and later waits end at once."""

    def close(self) -> None:
        with self._closing:
            if self._file >= 0:
                os.close(self._file)
            self._file = -1
