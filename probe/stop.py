"""SIGINT and SIGTERM as something a selector can wait for."""

from __future__ import annotations

import contextlib
import signal
import socket
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """A context in which the first SIGINT or SIGTERM sets ``received`` and makes it readable.

    A second one acts as it would without us, so that nobody has to wait for a slow end.
    """

    def __init__(self) -> None:
        self.received = False
        self._reader, self._writer = socket.socketpair()
        self._former: dict[int, Any] = {}
        self._former_wakeup = -1

    def __enter__(self) -> StopSignals:
        self._writer.setblocking(False)
        self._former_wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._former = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
        signal.set_wakeup_fd(self._former_wakeup)
        self._reader.close()
        self._writer.close()

    def fileno(self) -> int:
        return self._reader.fileno()

    def drain(self) -> None:
        """Take the octets that woke the selector."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(64, socket.MSG_DONTWAIT)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        self._restore()

    def _restore(self) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former = {}
