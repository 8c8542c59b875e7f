"""Dumps the sockets of a network namespace, and receives final counters, by sock_diag."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from probe.netlink import wire
from probe.netlink.inet_diag import (
    AF_INET,
    AF_INET6,
    TCP,
    U32,
    DumpState,
    Positions,
    encode_both,
    encode_family,
    index_datagram,
)

_NETLINK_SOCK_DIAG = 4
_SO_NETNS_COOKIE = 71
#: SKNLGRP_INET_TCP_DESTROY and _INET6_. Messages of UDP have no counters, and a busy resolver
#: destroys thousands of sockets a second. So the probe does not join the groups of UDP.
_TCP_DESTROY_GROUPS = (1, 3)
_EVENT_BUFFER = 8 << 20  # a queued message takes about a kilobyte in the kernel
_DATAGRAM = 32768  # octets; the kernel sends no larger one
_LOT = 1 << 20


class Buffer:
    """Receives datagrams one behind the other; ``words`` is the same memory."""

    def __init__(self) -> None:
        self.words: U32 = np.zeros((_LOT + 2 * _DATAGRAM) // 4, np.uint32)
        self._octets = memoryview(self.words).cast("B")  # type: ignore[arg-type]
        self.end = 0  # in words
        self._starts: list[Positions] = []
        self._numbers: list[int] = []

    @property
    def is_full(self) -> bool:
        return 4 * self.end >= _LOT

    def receive(self, source: socket.socket, number: int, dump: DumpState) -> None:
        """Receives a datagram of the namespace ``number``. Raises OSError as ``recv_into`` does."""
        got = source.recv_into(self._octets[4 * self.end :], _DATAGRAM)
        end = self.end + got // 4
        self._starts.append(index_datagram(self.words, self.end, end, dump))
        self._numbers.append(number)
        self.end = end

    def take(self) -> tuple[Positions, U32]:
        """Returns where each message begins, and the number of its namespace.

        The next datagrams overwrite the messages.
        """
        starts = np.concatenate(self._starts) if self._starts else np.zeros(0, np.int64)
        counts = [len(part) for part in self._starts]
        numbers = np.repeat(np.array(self._numbers, np.uint32), counts)
        self._starts, self._numbers, self.end = [], [], 0
        return starts, numbers


@dataclass(slots=True)
class Namespace:
    """A network namespace in which the probe has sockets. ``number`` is the probe's, and never 0.

    ``is_new`` is True if the namespace is newer than the collector, so that nothing in it is older.
    """

    number: int
    inode: int
    cookie: int
    dumps: socket.socket
    events: socket.socket
    is_new: bool = False
    has_both: bool = True  # the kernel dumps both versions of IP in one walk
    lost_events: int = 0
    sequence: int = field(default=1)

    def close(self) -> None:
        self.dumps.close()
        self.events.close()

    def requests(self, extensions: int, states: int, protocol: int = TCP) -> list[bytes]:
        self.sequence += 2
        if protocol == TCP and self.has_both:
            return [encode_both(extensions, states, self.sequence)]
        return [
            encode_family(family, protocol, extensions, states, self.sequence + at)
            for at, family in enumerate((AF_INET, AF_INET6))
        ]

    def dump(
        self, buffer: Buffer, extensions: int, states: int, protocol: int = TCP
    ) -> Iterator[DumpState]:
        """Receives into ``buffer``, and yields whenever that is full and at the end.

        Raises OSError; a dump with a missing part has failed.
        """
        for request in self.requests(extensions, states, protocol):
            self.dumps.send(request)
            dump = DumpState()
            while not dump.done:
                buffer.receive(self.dumps, self.number, dump)
                if buffer.is_full:
                    yield dump
            if dump.error == errno.ENOENT and self.has_both and protocol == TCP:
                self.has_both = False
                yield from self.dump(buffer, extensions, states, protocol)
                return
            if dump.error and dump.error != errno.ENOENT:  # ENOENT: no such family here
                raise OSError(dump.error, os.strerror(dump.error))
        yield dump

    def receive_events(self, buffer: Buffer) -> bool:
        """Receives queued events. Returns False if none is left, True if ``buffer`` is full."""
        ignored = DumpState()
        while not buffer.is_full:
            try:
                buffer.receive(self.events, self.number, ignored)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost_events += 1
        return True


def open_namespace(number: int, inode: int, has_events: bool = True) -> Namespace:
    """Opens sockets in the namespace of the calling thread. Raises OSError.

    Without ``has_events`` the socket for events receives none.
    """
    with contextlib.ExitStack() as stack:
        dumps = stack.enter_context(wire.open_socket(_NETLINK_SOCK_DIAG))
        events = stack.enter_context(wire.open_socket(_NETLINK_SOCK_DIAG))
        dumps.setblocking(False)  # the kernel answers within send and recv
        events.setblocking(False)
        if has_events:
            _listen(events)
        stack.pop_all()
    return Namespace(number, inode, read_cookie(dumps) or inode, dumps, events)


def read_cookie(source: socket.socket) -> int:
    """Returns the cookie of a socket's network namespace (Linux 5.14), 0 if unknown."""
    try:
        return int.from_bytes(source.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")
    except OSError:
        return 0


def _listen(events: socket.socket) -> None:
    wire.enlarge_buffer(events, _EVENT_BUFFER)
    for group in _TCP_DESTROY_GROUPS:
        events.setsockopt(wire.SOL_NETLINK, wire.ADD_MEMBERSHIP, group)
