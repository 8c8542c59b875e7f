"""rtnetlink on the wire: links, and the ids that network namespaces have in ours.

pyroute2 would do it too, and costs 0.2 s to import alone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

# include/uapi/linux/netlink.h, rtnetlink.h, if_link.h, net_namespace.h
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_ATTRIBUTE = struct.Struct("=HH")
_NLM_F_REQUEST, _NLM_F_DUMP_REQUEST, _NLM_F_DUMP_INTR = 0x1, 0x301, 0x10
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_RTM_NEWNSID, _RTM_GETNSID = 88, 90
_RTMGRP_LINK = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_OPERSTATE, _IFLA_LINKINFO, _IFLA_IFALIAS = 16, 18, 20
_IFLA_STATS64, _IFLA_NEW_NETNSID = 23, 45
_IFLA_EXT_MASK, _IFLA_PROMISCUITY, _IFLA_LINK_NETNSID, _IFLA_TARGET_NETNSID = 29, 30, 37, 46
_IFLA_INFO_KIND = 1
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg
_IFA_ADDRESS, _IFA_LOCAL, _IFA_TARGET_NETNSID = 1, 2, 10
_RT_SCOPE_UNIVERSE = 0
_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID, _NETLINK_GET_STRICT_CHK = 270, 8, 12
_SO_RCVBUFFORCE = 33
_ANCILLARY_OCTETS = 64
_NETNSA_NSID, _NETNSA_PID = 1, 2
_NLA_TYPE = 0x3FFF
_RTEXT_FILTER_SKIP_STATS = 8
_RECEIVE_OCTETS = 65536
#: Of events that wait: a message of a link takes some 4 kB of it. The kernel's default is 50.
_EVENT_OCTETS = 4 << 20
_TIMEOUT_S = 1.0
_ATTEMPTS = 3  # at a list that did not change while it was read
_UNASSIGNED = -1
_NUMBER = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class Interface:
    """As IF-MIB has them: ifIndex, ifName, ifAlias (the name where no alias is set).

    ``kind``: rtnetlink's, as 'veth' or 'bridge', '' for hardware. ``peer``: the index of the
    interface that this one is tied to, in the namespace that has the id ``peer_nsid`` in ours;
    -1 is our own. ``alias`` is '' where none is set; ``type``: ARPHRD_*; ``flags``: IFF_*;
    ``state``: IF_OPER_*, 0 unknown; ``master``: the index of the bridge that it is a port of, 0.
    """

    index: int
    name: str
    description: str
    kind: str = field(default="", compare=False)
    peer: int = field(default=0, compare=False)
    peer_nsid: int = field(default=_UNASSIGNED, compare=False)
    alias: str = field(default="", compare=False)
    type: int = field(default=1, compare=False)
    flags: int = field(default=0, compare=False)
    state: int = field(default=0, compare=False)
    mtu: int = field(default=0, compare=False)
    address: bytes = field(default=b"", compare=False)
    promiscuity: int = field(default=0, compare=False)
    master: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Change:
    """What an event tells of an interface. ``counters``: struct rtnl_link_stats64, b'' where it has
    none; ``is_gone``: these are the last ones; ``is_moved``: to another network namespace;
    ``nsid``: id of the namespace that the interface is in, -1 for ours."""

    interface: Interface
    counters: bytes = b""
    is_gone: bool = False
    is_moved: bool = False
    nsid: int = _UNASSIGNED


def open_route() -> socket.socket:
    """A rtnetlink socket for requests, with a time-out."""
    route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    route.settimeout(_TIMEOUT_S)
    route.bind((0, 0))
    return route


def subscribe() -> socket.socket:
    """A socket that tells of changes of links; it never blocks.

    With CAP_NET_BROADCAST also of links in those namespaces that have an id in ours: containers'.
    """
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        events.setblocking(False)
        _enlarge(events)
        with contextlib.suppress(OSError):
            events.setsockopt(_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID, 1)
        events.bind((0, _RTMGRP_LINK))
    except OSError:
        events.close()
        raise
    return events


def _enlarge(events: socket.socket) -> None:
    """What an event told of a link that is gone, nothing tells again. More than the host's limit
    takes a capability."""
    try:
        events.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _EVENT_OCTETS)
    except OSError:
        events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _EVENT_OCTETS)


def read_interfaces() -> list[Interface]:
    """By index. Raises OSError."""
    with open_route() as route:
        for attempt in range(1, _ATTEMPTS + 1):
            _request_links(route, attempt)
            found, interrupted = _read_links(route, attempt)
            if not interrupted:
                break
    return sorted(found, key=lambda interface: interface.index)


def receive_changes(events: socket.socket) -> Iterator[Change]:
    """Those of one datagram; raises OSError.

    What bridges tell of their ports is left out: it looks like the end of the port.
    """
    datagram, ancillary, _, _ = events.recvmsg(_RECEIVE_OCTETS, _ANCILLARY_OCTETS)
    nsid = _nsid_of(ancillary)
    for kind, _, _, body in _messages(datagram):
        if kind in (_RTM_NEWLINK, _RTM_DELLINK) and body[0] == socket.AF_UNSPEC:
            found = dict(_attributes(body[_LINK.size :]))
            counters, is_moved = found.get(_IFLA_STATS64, b""), _IFLA_NEW_NETNSID in found
            yield Change(_decode_link(body), counters, kind == _RTM_DELLINK, is_moved, nsid)


def _nsid_of(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, value in ancillary:
        if (level, kind) == (_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID):
            return int(struct.unpack("=i", value)[0])
    return _UNASSIGNED


def read_nsid(route: socket.socket, pid: int) -> int:
    """The id in our network namespace of the one that the process is in, -1 when it has none.

    Raises OSError: the process is gone.
    """
    body = struct.pack("=Bxxx", socket.AF_UNSPEC) + _attribute(_NETNSA_PID, struct.pack("=I", pid))
    _request(route, _RTM_GETNSID, _NLM_F_REQUEST, pid, body)
    while True:
        for kind, _, number, answer in _messages(route.recv(_RECEIVE_OCTETS)):
            if number != pid:
                continue
            if kind == _NLMSG_ERROR:
                _raise(answer)
            if kind == _RTM_NEWNSID:
                value = dict(_attributes(answer[4:])).get(_NETNSA_NSID)
                return struct.unpack("=i", value)[0] if value else _UNASSIGNED


def read_interface(route: socket.socket, index: int, nsid: int = _UNASSIGNED) -> Interface:
    """One interface as it is now, of the namespace with the id ``nsid`` in ours where it is given.

    Raises OSError: it is gone, or that namespace may not be looked into.
    """
    body = _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0)
    if nsid != _UNASSIGNED:
        body += _attribute(_IFLA_TARGET_NETNSID, struct.pack("=i", nsid))
        body += _attribute(_IFLA_EXT_MASK, _NUMBER.pack(_RTEXT_FILTER_SKIP_STATS))
    _request(route, _RTM_GETLINK, _NLM_F_REQUEST, index, body)
    while True:
        for kind, _, number, answer in _messages(route.recv(_RECEIVE_OCTETS)):
            if number != index:
                continue
            if kind == _NLMSG_ERROR:
                _raise(answer)
            if kind == _RTM_NEWLINK:
                return _decode_link(answer)


def read_addresses(route: socket.socket, nsid: int) -> list[str]:
    """Addresses with global scope in the network namespace with that id in ours.

    Raises OSError: it may not be looked into, or the kernel is older than 4.20.
    """
    route.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
    found: list[str] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        body = _ADDRESS.pack(family, 0, 0, 0, 0)
        body += _attribute(_IFA_TARGET_NETNSID, struct.pack("=i", nsid))
        _request(route, _RTM_GETADDR, _NLM_F_DUMP_REQUEST, family, body)
        found += _read_addresses(route, family)
    return found


def _read_addresses(route: socket.socket, family: int) -> Iterator[str]:
    while True:
        for kind, _, number, body in _messages(route.recv(_RECEIVE_OCTETS)):
            if number != family:
                continue
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                _raise(body)
            scope = _ADDRESS.unpack_from(body)[3]
            if kind == _RTM_NEWADDR and scope == _RT_SCOPE_UNIVERSE:
                attributes = dict(_attributes(body[_ADDRESS.size :]))
                address = attributes.get(_IFA_LOCAL) or attributes[_IFA_ADDRESS]
                yield socket.inet_ntop(family, address)


def _request(route: socket.socket, kind: int, flags: int, number: int, body: bytes) -> None:
    route.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, number, 0) + body)


def _request_links(route: socket.socket, number: int) -> None:
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    body += _attribute(_IFLA_EXT_MASK, struct.pack("=I", _RTEXT_FILTER_SKIP_STATS))
    _request(route, _RTM_GETLINK, _NLM_F_DUMP_REQUEST, number, body)


def _read_links(route: socket.socket, wanted: int) -> tuple[list[Interface], bool]:
    """All links, and whether the list changed meanwhile, so that some may be missing."""
    found: list[Interface] = []
    interrupted = False
    while True:
        for kind, flags, number, body in _messages(route.recv(_RECEIVE_OCTETS)):
            if number != wanted:
                continue
            interrupted |= bool(flags & _NLM_F_DUMP_INTR)
            if kind == _NLMSG_DONE:
                return found, interrupted
            if kind == _NLMSG_ERROR:
                _raise(body)
            if kind == _RTM_NEWLINK:
                found.append(_decode_link(body))


def _raise(body: bytes) -> None:
    code = -struct.unpack_from("=i", body)[0]
    raise OSError(code, os.strerror(code))


def _messages(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence number, body)."""
    start = 0
    while start + _HEADER.size <= len(datagram):
        size, kind, flags, number, _ = _HEADER.unpack_from(datagram, start)
        yield kind, flags, number, datagram[start + _HEADER.size : start + size]
        start += max(_HEADER.size, (size + 3) & ~3)


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def _attributes(octets: bytes) -> Iterator[tuple[int, bytes]]:
    at, header = 0, _ATTRIBUTE.unpack_from
    while at + _ATTRIBUTE.size <= len(octets):
        size, kind = header(octets, at)
        yield kind & _NLA_TYPE, octets[at + _ATTRIBUTE.size : at + size]
        at += max(_ATTRIBUTE.size, (size + 3) & ~3)


def _decode_link(body: bytes) -> Interface:
    """struct ifinfomsg and some forty attributes, of which ten are ours."""
    found = dict(_attributes(body[_LINK.size :]))
    _, type_, index, flags, _ = _LINK.unpack_from(body)
    name, alias = _text(found.get(_IFLA_IFNAME, b"")), _text(found.get(_IFLA_IFALIAS, b""))
    info = dict(_attributes(found.get(_IFLA_LINKINFO, b"")))
    nsid = found.get(_IFLA_LINK_NETNSID)
    return Interface(
        index=index,
        name=name,
        description=alias or name,
        kind=_text(info.get(_IFLA_INFO_KIND, b"")),
        peer=_number(found.get(_IFLA_LINK)),
        peer_nsid=struct.unpack("=i", nsid)[0] if nsid else _UNASSIGNED,
        alias=alias,
        type=type_,
        flags=flags,
        state=found.get(_IFLA_OPERSTATE, b"\0")[0],
        mtu=_number(found.get(_IFLA_MTU)),
        address=found.get(_IFLA_ADDRESS, b""),
        promiscuity=_number(found.get(_IFLA_PROMISCUITY)),
        master=_number(found.get(_IFLA_MASTER)),
    )


def _number(octets: bytes | None) -> int:
    return int(_NUMBER.unpack(octets)[0]) if octets else 0


def _text(octets: bytes) -> str:
    """An alias is any octets that its user gave."""
    return octets.split(b"\0", 1)[0].decode("utf-8", "replace")
