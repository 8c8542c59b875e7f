"""Decides when to drain: at the first event after silence, then at regular intervals.

Without this, each event would wake up the probe. So a socket that fires is disarmed. It is armed
again when a rest of 20 ms brought no further event.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct

from probe.netlink.sock_diag import Namespace

#: A receive buffer of default size holds the events of this time, at thousands of ends a second.
_REST_NS = 20_000_000
_CLOCK_MONOTONIC, _TFD_FLAGS = 1, os.O_NONBLOCK | os.O_CLOEXEC


class EventWatch:
    """Watches event sockets and a timer through one epoll descriptor."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._timer = _create_timer()
        self._epoll.register(self._timer, select.EPOLLIN)
        self._watched: dict[int, Namespace] = {}
        self._resting: dict[int, Namespace] = {}

    def fileno(self) -> int:
        return self._epoll.fileno()

    def add(self, namespace: Namespace) -> None:
        descriptor = namespace.events.fileno()
        self._watched[descriptor] = namespace
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLONESHOT)

    def remove(self, namespace: Namespace) -> None:
        descriptor = namespace.events.fileno()
        if self._watched.pop(descriptor, None):
            self._epoll.unregister(descriptor)
        self._resting.pop(descriptor, None)

    def take_fired(self) -> list[Namespace]:
        """Returns namespaces that have something to read, or recently had."""
        for descriptor, _ in self._epoll.poll(0):
            if descriptor == self._timer:
                os.read(self._timer, 8)
            else:
                self._resting[descriptor] = self._watched[descriptor]
        return list(self._resting.values())

    def rest(self, busy: list[Namespace]) -> None:
        """Lets ``busy`` namespaces rest, which had something to read.

        The next event of any other namespace is reported at once.
        """
        still = {namespace.events.fileno(): namespace for namespace in busy}
        for descriptor in self._resting.keys() - still.keys():
            self._epoll.modify(descriptor, select.EPOLLIN | select.EPOLLONESHOT)
        self._resting = still
        if still:
            _set_timer(self._timer, _REST_NS)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._timer)


def _create_timer() -> int:
    """Returns a timerfd (os.timerfd_create needs Python 3.13)."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor: int = library.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return descriptor


def _set_timer(descriptor: int, after_ns: int) -> None:
    once = struct.pack("@4l", 0, 0, *divmod(after_ns, 1_000_000_000))  # struct itimerspec
    library = ctypes.CDLL(None, use_errno=True)
    if library.timerfd_settime(descriptor, 0, once, None):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
