"""Opens the listening socket of a ZMQ destination, and bounds its incoming connections.

The library accepts every connection, and does not require it to send anything. So strangers could
use up the file descriptors of the probe. Three measures prevent that:

- The kernel does not pass on connections that have sent nothing (TCP_DEFER_ACCEPT).
- The library ends a handshake that takes more than some seconds.
- ``Peers`` ends connections beyond a fixed number.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

_log = logging.getLogger(__name__)

#: Most connections at a time, and from one address. ntopng has one for each of its interfaces.
MOST_PEERS, MOST_OF_ONE_ADDRESS = 64, 16
#: Most different subscriptions of all connections. ntopng has one for each of some ten topics.
MOST_SUBSCRIPTIONS = 256
#: Time for which the kernel waits for the first octets of a connection.
_DEFER_S = 10
_BACKLOG = 100
#: Octets of a ZMTP 3 greeting (https://rfc.zeromq.org/spec/23). A silent peer has sent no more.
_GREETING = 64
# include/uapi/linux/tcp.h: struct tcp_info.tcpi_bytes_received
_BYTES_RECEIVED_AT = 128
_SAY_AGAIN_S = 60.0


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens at ``host``; '*' is every address. Raises OSError."""
    if host == "*":
        family, address = (
            (socket.AF_INET6, ("::", port)) if socket.has_ipv6 else (socket.AF_INET, ("", port))
        )
    else:
        flags = socket.AI_PASSIVE
        family, _, _, _, found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=flags
        )[0]
        address = (str(found[0]), port)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _DEFER_S)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "*"))
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


@dataclass(frozen=True, slots=True)
class _Peer:
    descriptor: int  # of the library, which may close it at any time; its number may then be reused
    address: str


class Peers:
    """The connections that the library has accepted at ``port``, as reported by its monitor."""

    def __init__(
        self, name: str, port: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._name, self._port, self._monotonic = name, port, monotonic
        self._open: dict[int, _Peer] = {}
        self._say_at = float("-inf")
        #: Connections that were ended because there were too many.
        self.refused = 0

    def __len__(self) -> int:
        return len(self._open)

    def accept(self, descriptor: int) -> None:
        """Notes a new connection, and ends one if there are too many.

        That is the oldest connection that has sent nothing, or else the new one.
        """
        self._open.pop(descriptor, None)
        with _Borrowed(descriptor, self._port) as connection:
            if connection is None:
                return
            try:
                address = str(connection.getpeername()[0]).removeprefix("::ffff:")
            except OSError:  # it was reset just now
                return
            peer = _Peer(descriptor, address)
        alike = [one for one in self._open.values() if one.address == peer.address]
        self._open[descriptor] = peer
        if len(alike) >= MOST_OF_ONE_ADDRESS:
            self._end_one([*alike, peer])
        elif len(self._open) > MOST_PEERS:
            self._end_one(list(self._open.values()))

    def leave(self, descriptor: int) -> None:
        """Notes that a connection has ended."""
        self._open.pop(descriptor, None)

    def _end_one(self, peers: list[_Peer]) -> None:
        self._end(next((one for one in peers if self._is_silent(one)), peers[-1]))

    def end_loudest(self) -> None:
        """Ends the connection that has sent most, because a real subscriber sends little."""
        if self._open:
            self._end(max(self._open.values(), key=lambda one: self._octets_received(one) or 0))

    def _end(self, victim: _Peer) -> None:
        self._open.pop(victim.descriptor, None)
        with _Borrowed(victim.descriptor, self._port) as connection:
            if connection is not None:
                with contextlib.suppress(OSError):  # it was reset just now
                    connection.shutdown(socket.SHUT_RDWR)
        self.refused += 1
        if (now := self._monotonic()) >= self._say_at:
            self._say_at = now + _SAY_AGAIN_S
            _log.warning(
                "%s: ended %d connections so far, the last from %s, since it takes %d at a time, "
                "%d of an address, and %d subscriptions. Let only ntopng reach this port",
                self._name, self.refused, victim.address, MOST_PEERS, MOST_OF_ONE_ADDRESS,
                MOST_SUBSCRIPTIONS,
            )  # fmt: skip

    def _is_silent(self, peer: _Peer) -> bool:
        octets = self._octets_received(peer)
        return octets is None or octets <= _GREETING

    def _octets_received(self, peer: _Peer) -> int | None:
        """Returns the octets that a peer has sent, or None if its connection has ended."""
        with _Borrowed(peer.descriptor, self._port) as connection:
            if connection is None:
                return None
            told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        if len(told) < _BYTES_RECEIVED_AT + 8:  # a kernel before 4.1
            return _GREETING + 1
        return int(struct.unpack_from("Q", told, _BYTES_RECEIVED_AT)[0])


class _Borrowed:
    """A context with a duplicate of the library's descriptor, or None.

    The thread of the library may have closed the descriptor, and its number may belong to another
    file by now. So the context gives only a connection of the right port.
    """

    def __init__(self, descriptor: int, port: int) -> None:
        self._descriptor, self._port = descriptor, port
        self._socket: socket.socket | None = None

    def __enter__(self) -> socket.socket | None:
        try:
            copy = os.dup(self._descriptor)
        except OSError:
            return None
        try:
            self._socket = socket.socket(fileno=copy)
        except OSError:  # its number belongs to another kind of file now
            os.close(copy)
            return None
        try:
            self._socket.getpeername()
            is_ours = self._socket.getsockname()[1] == self._port
        except (OSError, ValueError, IndexError):
            is_ours = False
        return self._socket if is_ours else None

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()
