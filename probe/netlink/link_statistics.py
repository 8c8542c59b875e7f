"""Counters of all interfaces in one dump of RTM_GETSTATS, which has nothing else in it: a sixth of
what RTM_GETLINK would make the kernel write and us read. What else there is to know of interfaces,
events tell. Any user may ask.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from probe.netlink.rtnetlink import open_route

# include/uapi/linux/netlink.h, rtnetlink.h, if_link.h
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_STATISTICS = struct.Struct("=BxHII")  # struct if_stats_msg
_ATTRIBUTE = struct.Struct("=HH")
_NLM_F_DUMP_REQUEST = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWSTATS, _RTM_GETSTATS = 92, 94
_IFLA_STATS_LINK_64 = 1
_BODY = _HEADER.size + _STATISTICS.size
_RECEIVE_OCTETS = 65536

#: The beginning of struct rtnl_link_stats64: packets, octets, errors and dropped, of each in and
#: out; multicast. What was dropped for want of room in the device's own ring is rx_missed_errors.
COUNTERS = struct.Struct("=9Q")
_MISSED = struct.Struct("=Q")
_MISSED_AT = 15 * 8


def read_counters() -> dict[int, bytes]:
    """Index -> struct rtnl_link_stats64, the first nine members and rx_missed_errors at least.

    Raises OSError.
    """
    found: dict[int, bytes] = {}
    with open_route() as route:
        body = _STATISTICS.pack(socket.AF_UNSPEC, 0, 0, 1 << (_IFLA_STATS_LINK_64 - 1))
        size = _HEADER.size + len(body)
        route.send(_HEADER.pack(size, _RTM_GETSTATS, _NLM_F_DUMP_REQUEST, 1, 0) + body)
        while _take(route.recv(_RECEIVE_OCTETS), found):
            pass
    return found


def decode_missed(octets: bytes) -> int:
    """rx_missed_errors, which ``COUNTERS`` ends before."""
    return int(_MISSED.unpack_from(octets, _MISSED_AT)[0])


def highest(one: bytes, other: bytes) -> bytes:
    """Of each member the greater value. Counters never fall, but those of a veth seem to: what came
    in is what its peer sent, and is told no more once the peer is gone."""
    if not one or not other:
        return one or other
    count = min(len(one), len(other)) // 8
    both = (struct.unpack_from(f"={count}Q", octets) for octets in (one, other))
    return struct.pack(f"={count}Q", *map(max, *both))


def of_other_end(octets: bytes) -> bytes:
    """Packets and octets of a veth as its peer has them: what one sent came in at the other."""
    in_packets, out_packets, in_octets, out_octets = struct.unpack_from("=4Q", octets)
    swapped = struct.pack("=4Q", out_packets, in_packets, out_octets, in_octets)
    return swapped + bytes(len(octets) - len(swapped))


def _take(datagram: bytes, found: dict[int, bytes]) -> bool:
    """False at the end of the dump."""
    at, end = 0, len(datagram)
    while at + _HEADER.size <= end:
        size, kind, _, _, _ = _HEADER.unpack_from(datagram, at)
        if kind == _RTM_NEWSTATS:
            index = _STATISTICS.unpack_from(datagram, at + _HEADER.size)[2]
            found[index] = _statistics(datagram, at + _BODY, at + size)
        elif kind == _NLMSG_DONE:
            return False
        elif kind == _NLMSG_ERROR:
            code = -struct.unpack_from("=i", datagram, at + _HEADER.size)[0]
            raise OSError(code, os.strerror(code))
        at += max(_HEADER.size, (size + 3) & ~3)
    return True


def _statistics(datagram: bytes, at: int, end: int) -> bytes:
    """Of the one attribute asked for; where 64 bits must be aligned a filler is before it."""
    while at + _ATTRIBUTE.size <= end:
        size, kind = _ATTRIBUTE.unpack_from(datagram, at)
        if kind == _IFLA_STATS_LINK_64:
            return datagram[at + _ATTRIBUTE.size : at + size]
        at += max(_ATTRIBUTE.size, (size + 3) & ~3)
    raise OSError(errno.EPROTO, "no counters in the answer")
