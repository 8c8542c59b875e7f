"""Counters of all interfaces in one dump of RTM_GETSTATS, which holds nothing else.

The kernel writes, and we read, a sixth of what RTM_GETLINK would take. Events tell everything else
about interfaces. Any user may ask. Pollers ask once a second, so this dump is decoded by hand: 1000
veths take 3 ms, and 39 ms with pyroute2's ifstatsmsg (docs/decisions/0030).
"""

from __future__ import annotations

import errno
import socket
import struct

from probe.netlink import wire
from probe.netlink.rtnetlink import open_route

# include/uapi/linux/rtnetlink.h, if_link.h
_STATISTICS = struct.Struct("=BxHII")  # struct if_stats_msg
_NEW_STATISTICS, _GET_STATISTICS = 92, 94
_LINK_64 = 1  # IFLA_STATS_LINK_64
_BODY = wire.HEADER.size + _STATISTICS.size

#: The beginning of struct rtnl_link_stats64: packets, octets, errors and dropped, of each in and
#: out; multicast. What the device's own ring had no room for is further on, in rx_missed_errors.
COUNTERS = struct.Struct("=9Q")
_MISSED = struct.Struct("=Q")
_MISSED_AT = 15 * 8


def read_counters() -> dict[int, bytes]:
    """Returns struct rtnl_link_stats64 of each interface by its index. Raises OSError.

    Each has the first nine members and rx_missed_errors at least.
    """
    body = _STATISTICS.pack(socket.AF_UNSPEC, 0, 0, 1 << (_LINK_64 - 1))
    with open_route() as route:
        route.send(wire.encode_message(_GET_STATISTICS, wire.F_DUMP, 1, body))
        return collect_counters(wire.Reply(route, 1))


def collect_counters(reply: wire.Reply) -> dict[int, bytes]:
    """Returns what ``read_counters`` does, of the messages of a dump. Raises OSError."""
    found: dict[int, bytes] = {}
    for kind, datagram, start, end in reply:
        if kind == _NEW_STATISTICS:
            index = _STATISTICS.unpack_from(datagram, start + wire.HEADER.size)[2]
            found[index] = _find_statistics(datagram, start + _BODY, end)
    return found


def decode_missed(octets: bytes) -> int:
    """Returns rx_missed_errors, which lies behind ``COUNTERS``."""
    return int(_MISSED.unpack_from(octets, _MISSED_AT)[0])


def highest(one: bytes, other: bytes) -> bytes:
    """Returns the greater value of each member.

    Counters never fall, but those of a veth seem to: what came in is what its peer sent, and the
    kernel no longer tells it once the peer is gone.
    """
    if not one or not other:
        return one or other
    count = min(len(one), len(other)) // 8
    both = (struct.unpack_from(f"={count}Q", octets) for octets in (one, other))
    return struct.pack(f"={count}Q", *map(max, *both))


def of_other_end(octets: bytes) -> bytes:
    """Returns packets and octets of a veth from its peer's: what one sent came in at the other."""
    in_packets, out_packets, in_octets, out_octets = struct.unpack_from("=4Q", octets)
    swapped = struct.pack("=4Q", out_packets, in_packets, out_octets, in_octets)
    return swapped + bytes(len(octets) - len(swapped))


def _find_statistics(datagram: bytes, at: int, end: int) -> bytes:
    """Returns the one attribute asked for. A filler may come before it, to align 64 bits."""
    for kind, begin, stop in wire.attributes(datagram, at, end):
        if kind == _LINK_64:
            return datagram[begin:stop]
    raise OSError(errno.EPROTO, "the kernel's answer has no counters of interfaces")
