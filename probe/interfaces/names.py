"""The interfaces of our network namespace: index, name and description.

By rtnetlink, which answers for the namespace of the caller; /sys/class/net shows the namespace in
which sysfs was mounted, and no ioctl tells the alias. 400 interfaces take 10 ms; pyroute2 costs
0.2 s to import alone.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from dataclasses import dataclass

log = logging.getLogger(__name__)

# include/uapi/linux/netlink.h, rtnetlink.h, if_link.h
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_ATTRIBUTE = struct.Struct("=HH")
_NLM_F_DUMP_REQUEST, _NLM_F_DUMP_INTR = 0x301, 0x10
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_RTMGRP_LINK = 1
_IFLA_IFNAME, _IFLA_IFALIAS, _IFLA_EXT_MASK = 3, 20, 29
_RTEXT_FILTER_SKIP_STATS = 8
_RECEIVE_OCTETS = 65536
_TIMEOUT_S = 1.0
_ATTEMPTS = 3  # at a list that did not change while it was read


@dataclass(frozen=True, slots=True)
class Interface:
    """As IF-MIB has them: ifIndex, ifName, ifAlias (the name where no alias is set)."""

    index: int
    name: str
    description: str


def read_interfaces() -> list[Interface]:
    """By index. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as route:
        route.settimeout(_TIMEOUT_S)
        route.bind((0, 0))
        for attempt in range(1, _ATTEMPTS + 1):
            _request_links(route, attempt)
            found, interrupted = _read_links(route, attempt)
            if not interrupted:
                break
    return sorted(found, key=lambda interface: interface.index)


class InterfaceList:
    """``interfaces`` as of the last ``refresh``, the first of which reads them."""

    def __init__(self) -> None:
        self.interfaces: list[Interface] = []
        self._events: socket.socket | None = None
        self._failed = False

    def refresh(self) -> bool:
        """Whether the list is another than before.

        Costs one system call unless the kernel told of a change (it keeps the alias of an interface
        that is down to itself until that is up). What goes wrong is warned of once; the old list
        stays.
        """
        try:
            if not self._may_have_changed():
                return False
            found = read_interfaces()
        except OSError as error:
            self.close()  # so that the next call reads anew
            if not self._failed:
                log.warning("interfaces cannot be read: %s", error)
            self._failed = True
            return False
        self._failed = False
        changed, self.interfaces = found != self.interfaces, found
        return changed

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def _may_have_changed(self) -> bool:
        if self._events is None:
            self._events = _subscribe()
            return True
        changed = False
        while True:
            try:
                self._events.recv(1)  # the rest of the message is cut off
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # more than the socket holds
                    raise
            changed = True


def _subscribe() -> socket.socket:
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        events.setblocking(False)
        events.bind((0, _RTMGRP_LINK))
    except OSError:
        events.close()
        raise
    return events


def _request_links(route: socket.socket, sequence: int) -> None:
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    body += _ATTRIBUTE.pack(8, _IFLA_EXT_MASK) + struct.pack("=I", _RTEXT_FILTER_SKIP_STATS)
    size = _HEADER.size + len(body)
    route.send(_HEADER.pack(size, _RTM_GETLINK, _NLM_F_DUMP_REQUEST, sequence, 0) + body)


def _read_links(route: socket.socket, sequence: int) -> tuple[list[Interface], bool]:
    """All links, and whether the list changed meanwhile, so that some may be missing."""
    found: list[Interface] = []
    interrupted = False
    while True:
        datagram = route.recv(_RECEIVE_OCTETS)
        start = 0
        while start < len(datagram):
            size, kind, flags, number, _ = _HEADER.unpack_from(datagram, start)
            body, end, start = start + _HEADER.size, start + size, start + ((size + 3) & ~3)
            if number != sequence:
                continue
            interrupted |= bool(flags & _NLM_F_DUMP_INTR)
            if kind == _NLMSG_DONE:
                return found, interrupted
            if kind == _NLMSG_ERROR:
                code = -struct.unpack_from("=i", datagram, body)[0]
                raise OSError(code, os.strerror(code))
            if kind == _RTM_NEWLINK:
                found.append(_decode_link(datagram, body, end))


def _decode_link(datagram: bytes, start: int, end: int) -> Interface:
    """``start`` to ``end``: struct ifinfomsg and some forty attributes, of which two are ours."""
    index = _LINK.unpack_from(datagram, start)[2]
    name = alias = ""
    at, header = start + _LINK.size, _ATTRIBUTE.unpack_from
    while at + _ATTRIBUTE.size <= end:
        size, kind = header(datagram, at)
        if kind == _IFLA_IFNAME:
            name = _text(datagram[at + _ATTRIBUTE.size : at + size])
        elif kind == _IFLA_IFALIAS:
            alias = _text(datagram[at + _ATTRIBUTE.size : at + size])
        at += max(_ATTRIBUTE.size, (size + 3) & ~3)
    return Interface(index, name, _describe(name, alias))


def _describe(name: str, alias: str) -> str:
    """The one place that decides: the container behind a veth would be told here."""
    return alias or name


def _text(octets: bytes) -> str:
    """An alias is any octets that its user gave."""
    return octets.split(b"\0", 1)[0].decode("utf-8", "replace")
