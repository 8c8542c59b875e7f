"""rtnetlink: links, their events, and the ids and addresses of network namespaces.

pyroute2 knows the messages. Requests and events use plain sockets: pyroute2's own (IPRoute) need an
asyncio loop each, and a selector of ours cannot wait for them.

Theory of operation. A link is a network interface as the kernel sends it. The kernel numbers the
other network namespaces that it tells us about: such an id (nsid) means something only in our own
namespace. A veth tells the index of its peer and the nsid that the peer is in. The kernel answers
for the namespace of the calling thread, or for the one whose nsid the request names.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from probe.netlink import wire
from probe.netlink.pyroute import NetlinkDecodeError, ifaddrmsg, ifinfmsg, nla, nlmsg, nsidmsg

# include/uapi/linux/rtnetlink.h
_NEW_LINK, _DELETE_LINK, _GET_LINK = 16, 17, 18
_NEW_ADDRESS, _GET_ADDRESS = 20, 22
_NEW_NSID, _GET_NSID = 88, 90
_LINK_GROUP = 1  # RTMGRP_LINK
_SCOPE_UNIVERSE = 0
_SKIP_STATISTICS = 8  # RTEXT_FILTER_SKIP_STATS
_RECEIVE_OCTETS = 65536
_ANCILLARY_OCTETS = 64
#: For events that wait. One takes some 4 kB, and the kernel's default holds 50.
_EVENT_OCTETS = 4 << 20
_TIMEOUT_S = 1.0
_ATTEMPTS = 3  # to read a list that does not change meanwhile
_UNASSIGNED = -1


def _choose(message: Any, **types: str) -> tuple[tuple[int, str, str], ...]:
    """Returns pyroute2's numbers of some attributes, with the types that we want.

    pyroute2's own types fail for hardware addresses that do not have six octets, take nsids as
    unsigned, and make objects of all of a message's statistics.
    """
    numbers = {entry[0]: number for number, entry in enumerate(message.nla_map)}
    return tuple((numbers[name], name, type_) for name, type_ in types.items())


class _LinkMessage(nlmsg):  # type: ignore[misc]
    fields = ifinfmsg.fields
    nla_map = _choose(
        ifinfmsg,
        IFLA_ADDRESS="cdata",
        IFLA_IFNAME="cdata",
        IFLA_MTU="uint32",
        IFLA_LINK="uint32",
        IFLA_MASTER="uint32",
        IFLA_OPERSTATE="uint8",
        IFLA_LINKINFO="info",
        IFLA_IFALIAS="cdata",
        IFLA_STATS64="cdata",
        IFLA_EXT_MASK="uint32",
        IFLA_PROMISCUITY="uint32",
        IFLA_LINK_NETNSID="int32",
        IFLA_NEW_NETNSID="int32",
        IFLA_IF_NETNSID="int32",  # of a request: the namespace that is asked about
    )

    class info(nla):  # type: ignore[misc]
        nla_map = ((1, "IFLA_INFO_KIND", "cdata"),)


class _AddressMessage(nlmsg):  # type: ignore[misc]
    fields = ifaddrmsg.fields
    nla_map = (
        *_choose(ifaddrmsg, IFA_ADDRESS="ipaddr", IFA_LOCAL="ipaddr"),
        (10, "IFA_TARGET_NETNSID", "int32"),  # pyroute2 before 0.9.2 does not know it
    )


class _NsidMessage(nlmsg):  # type: ignore[misc]
    fields = nsidmsg.fields
    nla_map = _choose(nsidmsg, NETNSA_NSID="int32", NETNSA_PID="uint32")


@dataclass(frozen=True, slots=True)
class Link:
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
    """What an event says about an interface.

    counters: struct rtnl_link_stats64, b'' where the event has none. is_gone: these counters are
    the last ones. is_moved: the interface is gone to another network namespace. nsid: the namespace
    that the interface is in, -1 for ours.
    """

    link: Link
    counters: bytes = b""
    is_gone: bool = False
    is_moved: bool = False
    nsid: int = _UNASSIGNED


def open_route() -> socket.socket:
    """Returns a rtnetlink socket for requests, with a time-out. Raises OSError."""
    route = wire.open_socket(socket.NETLINK_ROUTE)
    route.settimeout(_TIMEOUT_S)
    with contextlib.suppress(OSError):  # Linux 4.20; older kernels ignore what they do not know
        route.setsockopt(wire.SOL_NETLINK, wire.GET_STRICT_CHK, 1)
    return route


def subscribe() -> socket.socket:
    """Returns a socket that tells of changes of links, and that never blocks. Raises OSError.

    With CAP_NET_BROADCAST it also tells of links in the namespaces that have an nsid, which those
    of containers do.
    """
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        events.setblocking(False)
        wire.enlarge_buffer(events, _EVENT_OCTETS)  # nothing repeats what a lost event said
        with contextlib.suppress(OSError):
            events.setsockopt(wire.SOL_NETLINK, wire.LISTEN_ALL_NSID, 1)
        events.bind((0, _LINK_GROUP))
    except OSError:
        events.close()
        raise
    return events


def read_links() -> list[Link]:
    """Returns the interfaces of our network namespace, by index. Raises OSError."""
    request = _LinkMessage()
    request["attrs"] = [("IFLA_EXT_MASK", _SKIP_STATISTICS)]
    with open_route() as route:
        for attempt in range(1, _ATTEMPTS + 1):
            reply = _ask(route, _GET_LINK, request, attempt, wire.F_DUMP)
            found = [
                _read_link(message, _Attributes(message))
                for message in _decode_all(reply, _NEW_LINK, _LinkMessage)
            ]
            if not reply.is_interrupted:
                break
    return sorted(found, key=lambda interface: interface.index)


def receive_changes(events: socket.socket) -> Iterator[Change]:
    """Yields the changes of one datagram. Raises OSError.

    Leaves out what bridges say about their ports: it looks like the end of the port.
    """
    datagram, ancillary, _, _ = events.recvmsg(_RECEIVE_OCTETS, _ANCILLARY_OCTETS)
    nsid = _nsid_of(ancillary)
    for kind, _, _, start, end in wire.messages(datagram):
        if kind not in (_NEW_LINK, _DELETE_LINK) or end < start + wire.HEADER.size + 16:
            continue
        if datagram[start + wire.HEADER.size] != socket.AF_UNSPEC:
            continue
        message = _decode(datagram, start, _LinkMessage)
        attributes = _Attributes(message)
        yield Change(
            _read_link(message, attributes),
            attributes.get("IFLA_STATS64", b""),
            kind == _DELETE_LINK,
            "IFLA_NEW_NETNSID" in attributes,
            nsid,
        )


def _nsid_of(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, value in ancillary:
        if (level, kind) == (wire.SOL_NETLINK, wire.LISTEN_ALL_NSID):
            return int(wire.SIGNED.unpack(value)[0])
    return _UNASSIGNED


def read_nsid(route: socket.socket, pid: int) -> int:
    """Returns the nsid of the namespace that a process is in, -1 where it has none.

    Raises OSError where the process is gone.
    """
    request = _NsidMessage()
    request["attrs"] = [("NETNSA_PID", pid)]
    reply = _ask(route, _GET_NSID, request, pid)
    for message in _decode_all(reply, _NEW_NSID, _NsidMessage):
        return int(_Attributes(message).get("NETNSA_NSID", _UNASSIGNED))
    return _UNASSIGNED


def read_link(route: socket.socket, index: int, nsid: int = _UNASSIGNED) -> Link:
    """Returns one interface as it is now, in our namespace or in the one with that nsid.

    Raises OSError where it is gone, or where that namespace may not be looked into.
    """
    request = _LinkMessage()
    request["index"] = index
    if nsid != _UNASSIGNED:
        request["attrs"] = [("IFLA_IF_NETNSID", nsid), ("IFLA_EXT_MASK", _SKIP_STATISTICS)]
    reply = _ask(route, _GET_LINK, request, index)
    for message in _decode_all(reply, _NEW_LINK, _LinkMessage):
        return _read_link(message, _Attributes(message))
    raise OSError(errno.EPROTO, f"no answer about interface {index}")


def read_addresses(route: socket.socket, nsid: int) -> list[str]:
    """Returns the addresses with global scope in the namespace with that nsid.

    Raises OSError where it may not be looked into, and where the kernel is older than 4.20.
    """
    # An older kernel would ignore the nsid and answer for our own namespace.
    route.setsockopt(wire.SOL_NETLINK, wire.GET_STRICT_CHK, 1)
    found: list[str] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _AddressMessage()
        request["family"] = family
        request["attrs"] = [("IFA_TARGET_NETNSID", nsid)]
        reply = _ask(route, _GET_ADDRESS, request, family, wire.F_DUMP)
        for message in _decode_all(reply, _NEW_ADDRESS, _AddressMessage):
            if message["scope"] == _SCOPE_UNIVERSE:
                attributes = _Attributes(message)
                local = attributes.get("IFA_LOCAL", "")
                found.append(local or attributes.get("IFA_ADDRESS", ""))
    return found


def _ask(route: socket.socket, kind: int, request: Any, number: int, flags: int = 0) -> wire.Reply:
    request.reset()
    request["header"] = {
        "type": kind, "flags": flags | wire.F_REQUEST, "sequence_number": number,
    }  # fmt: skip
    request.encode()
    route.send(request.data)
    return wire.Reply(route, number)


def _decode_all(reply: wire.Reply, wanted: int, class_: Any) -> Iterator[Any]:
    for kind, datagram, start, _ in reply:
        if kind == wanted:
            yield _decode(datagram, start, class_)


def _decode(datagram: bytes, start: int, class_: Any) -> Any:
    message = class_(datagram, start)
    try:
        message.decode()
    except (NetlinkDecodeError, struct.error) as error:
        raise OSError(errno.EPROTO, f"a message of rtnetlink is damaged: {error}") from error
    return message


class _Attributes:
    """The attributes of a decoded message by name. pyroute2 decodes each one when it is asked."""

    def __init__(self, message: Any) -> None:
        self._slots = {slot.name: slot for slot in message["attrs"]}

    def __contains__(self, name: str) -> bool:
        return name in self._slots

    def get(self, name: str, default: Any = 0) -> Any:
        slot = self._slots.get(name)
        return default if slot is None else slot.value

    def get_text(self, name: str) -> str:
        """Returns a string up to its NUL. An alias may hold any octets."""
        octets: bytes = self.get(name, b"")
        return octets.split(b"\0", 1)[0].decode("utf-8", "replace")

    def get_nested(self, name: str) -> _Attributes:
        slot = self._slots.get(name)
        return _Attributes({"attrs": []} if slot is None else slot.nla)


def _read_link(message: Any, attributes: _Attributes) -> Link:
    """Returns what we need of some forty attributes."""
    name, alias = attributes.get_text("IFLA_IFNAME"), attributes.get_text("IFLA_IFALIAS")
    return Link(
        index=message["index"],
        name=name,
        description=alias or name,
        kind=attributes.get_nested("IFLA_LINKINFO").get_text("IFLA_INFO_KIND"),
        peer=attributes.get("IFLA_LINK"),
        peer_nsid=attributes.get("IFLA_LINK_NETNSID", _UNASSIGNED),
        alias=alias,
        type=message["ifi_type"],
        flags=message["flags"],
        state=attributes.get("IFLA_OPERSTATE"),
        mtu=attributes.get("IFLA_MTU"),
        address=attributes.get("IFLA_ADDRESS", b""),
        promiscuity=attributes.get("IFLA_PROMISCUITY"),
        master=attributes.get("IFLA_MASTER"),
    )
