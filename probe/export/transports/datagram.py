"""Sends many messages with one call of a connected UDP socket.

Messages are made for the MTU of the path. They leave with "don't fragment", so routers report when
the MTU has become smaller. A message that is longer all the same leaves in fragments, because its
records would be lost otherwise. IP_PMTUDISC_WANT does both.

Routers report a smaller MTU by ICMP, which anybody may forge. A forged report can only make
messages smaller. Reports below 576 octets (IPv4) or 1280 (IPv6), which no path needs, are not
believed: the socket then ignores ICMP, and routers may fragment (IP_PMTUDISC_OMIT).
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from probe.export.transports.resolve import Address
from probe.export.transports.sendmmsg import ManyMessages
from probe.ipfix.message import Train

# linux/in.h, linux/in6.h, linux/udp.h: Python's socket module does not name all of them.
_MTU_DISCOVER = {
    socket.AF_INET: (socket.IPPROTO_IP, 10),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 23),
}
_MTU = {socket.AF_INET: (socket.IPPROTO_IP, 14), socket.AF_INET6: (socket.IPPROTO_IPV6, 24)}
_HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}
#: The smallest MTU that is believed: RFC 791 (every host accepts so much), RFC 8200.
_LEAST_MTU = {socket.AF_INET: 576, socket.AF_INET6: 1280}
_PMTUDISC_WANT, _PMTUDISC_OMIT = 1, 5
_UDP_SEGMENT = 103
_MAX_SEGMENTS = 64  # UDP_MAX_SEGMENTS of every kernel that has UDP_SEGMENT
_MAX_OCTETS = 65000  # of one super-packet
_SEND_BUFFER = 1 << 20
#: Errors if the kernel cannot segment: no UDP_SEGMENT, no checksum offload, over the MTU.
_SEGMENTATION_ERRORS = {
    errno.EINVAL,
    errno.EIO,
    errno.EMSGSIZE,
    errno.EOPNOTSUPP,
    errno.ENOPROTOOPT,
}


class DatagramSocket:
    """A connected UDP socket. Its constructor and ``send`` raise the OSError of the kernel.

    ``segmentation`` lets the kernel cut one long packet into many messages (UDP_SEGMENT). It is
    meant for rates at which system calls matter. A capture on this host then shows the messages of
    a call as one long packet.
    """

    def __init__(self, address: Address, segmentation: bool = False) -> None:
        family, name = address
        self._family = socket.AddressFamily(family)
        self._wants_segmentation = self._segmentation = segmentation
        self._many = ManyMessages()
        self._loaded: Train | None = None
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            self._set_discovery(_PMTUDISC_WANT)
            self._socket.connect(name)
        except OSError:
            self._socket.close()
            raise

    @property
    def local_address(self) -> tuple[str, int]:
        address: tuple[str, int] = self._socket.getsockname()[:2]
        return address

    def pending_error(self) -> OSError | None:
        """Returns the error that ICMP reported for an earlier datagram, or None. Clears it."""
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return OSError(code, os.strerror(code)) if code else None

    def path_room(self) -> int | None:
        """Returns the octets of the largest datagram that the path takes unfragmented.

        Returns None if that is not known at present.
        """
        try:
            mtu: int = self._socket.getsockopt(*_MTU[self._family])
        except OSError:  # there is no route at the moment
            return None
        is_believed = mtu >= _LEAST_MTU[self._family]
        discovery = _PMTUDISC_WANT if is_believed else _PMTUDISC_OMIT
        if discovery != self._discovery:
            self._set_discovery(discovery)
        return mtu - _HEADERS[self._family] if is_believed else None

    def _set_discovery(self, discovery: int) -> None:
        self._socket.setsockopt(*_MTU_DISCOVER[self._family], discovery)
        self._discovery = discovery

    def send(self, train: Train, first: int, count: int) -> int:
        """Sends ``count`` messages of ``train``, from number ``first`` on (counted from 0).

        Returns how many left. If fewer than ``count`` did, the others must be tried again. Raises
        OSError if none left.
        """
        if self._segmentation and count > 1:
            return self._send_segmented(train, first, count)
        if train is not self._loaded:
            self._many.load(train.octets, train.size)
            self._loaded = train
        return self._many.send(self._socket.fileno(), first, count)

    def _send_segmented(self, train: Train, first: int, count: int) -> int:
        size = train.size
        count = max(1, min(count, _MAX_SEGMENTS, _MAX_OCTETS // size))
        try:
            ancillary = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", size))]
            self._socket.sendmsg([train.octets[first * size : (first + count) * size]], ancillary)
        except OSError as error:
            if error.errno not in _SEGMENTATION_ERRORS:
                raise
            self._segmentation = False
            return 0
        return count

    def allow_segmentation(self) -> None:
        """Tries segmentation again, because the size of messages or the path has changed."""
        self._segmentation = self._wants_segmentation

    def close(self) -> None:
        self._socket.close()
