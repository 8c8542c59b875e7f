"""Builds the columns of IF-MIB (RFC 2863) from interfaces.

Counters are those of the host's side: a veth receives what its container sends. Objects that the
kernel does not count are 0: broadcast in and out, multicast out, unknown protocols, and the length
of the output queue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from probe.interfaces.interface import Interface
from probe.snmp.ber import (
    COUNTER32,
    COUNTER64,
    GAUGE32,
    OBJECT_IDENTIFIER,
    OCTET_STRING,
    TIME_TICKS,
    Oid,
    encode,
    encode_integer,
)
from probe.snmp.naming import MOST_ALIAS_OCTETS, Behind, describe, shorten
from probe.snmp.tree import SCALAR, Column, Rows

INTERFACES: Oid = (1, 3, 6, 1, 2, 1, 2)
IF_ENTRY: Oid = (*INTERFACES, 2, 1)
IF_MIB_OBJECTS: Oid = (1, 3, 6, 1, 2, 1, 31, 1)
IF_X_ENTRY: Oid = (*IF_MIB_OBJECTS, 1, 1)
_IF_STACK_STATUS: Oid = (*IF_MIB_OBJECTS, 2, 1, 3)

_ETHERNET = 6
_IP_OCTETS = (4, 16)
_TRUE, _FALSE = 1, 2
_ACTIVE = 1  # RowStatus
_32_BITS = 0xFFFFFFFF
_ZERO_DOT_ZERO = encode(OBJECT_IDENTIFIER, b"\0")
#: Kinds whose ``peer`` in our own namespace is the device below them.
_STACKED_KINDS = frozenset({"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "vxlan", "macsec"})


@dataclass(frozen=True, slots=True)
class Row:
    link: Interface
    behind: Behind


@dataclass(frozen=True, slots=True)
class Changes:
    """Times of changes, in hundredths of a second of sysUpTime."""

    table: int = 0
    stack: int = 0


Ticks = Callable[[float], int]


def build_columns(
    links: Sequence[Interface], behind: Mapping[int, Behind], ticks: Ticks, changes: Changes
) -> list[Column]:
    """Returns the columns of ``links``, which ascend by index.

    ``ticks`` converts Unix time to sysUpTime, with 0 for times before the agent.
    """
    rows = [Row(link, behind.get(link.index, Behind())) for link in links]
    instances = Rows([(link.index,) for link in links])
    columns = [
        _scalar((*INTERFACES, 1), encode_integer(len(rows))),
        _scalar((*IF_MIB_OBJECTS, 5), encode_integer(changes.table, TIME_TICKS)),
        _scalar((*IF_MIB_OBJECTS, 6), encode_integer(changes.stack, TIME_TICKS)),
    ]
    for entry, table in ((IF_ENTRY, _IF_TABLE), (IF_X_ENTRY, _IF_X_TABLE)):
        columns += [
            Column((*entry, number), instances, _of(rows, encode_), number in _COUNTERS64[entry])
            for number, encode_ in table.items()
        ]
    for entry, number, attribute in ((IF_ENTRY, 9, "changed_s"), (IF_X_ENTRY, 19, "since_s")):
        columns.append(Column((*entry, number), instances, _times(rows, ticks, attribute)))
    pairs = find_stack(links)
    columns.append(Column(_IF_STACK_STATUS, Rows(pairs), lambda _: encode_integer(_ACTIVE)))
    return columns


def find_stack(links: Sequence[Interface]) -> list[Oid]:
    """Returns the rows (higher, lower) of ifStackTable, ascending.

    Bridges are above their ports, VLANs above their devices. 0 is above the highest and below the
    lowest interface.
    """
    here = {link.index for link in links}
    pairs = {(link.master, link.index) for link in links if link.master in here}
    pairs |= {
        (link.index, link.peer)
        for link in links
        if link.kind in _STACKED_KINDS and link.peer_nsid < 0 and link.peer in here
    }
    lower = {pair[1] for pair in pairs}
    higher = {pair[0] for pair in pairs}
    pairs |= {(0, index) for index in here - lower} | {(index, 0) for index in here - higher}
    return sorted(pairs)


def _scalar(prefix: Oid, value: bytes) -> Column:
    return Column(prefix, SCALAR, lambda _: value)


def _of(rows: Sequence[Row], encode_: Callable[[Row], bytes]) -> Callable[[int], bytes]:
    return lambda at: encode_(rows[at])


def _times(rows: Sequence[Row], ticks: Ticks, attribute: str) -> Callable[[int], bytes]:
    return lambda at: encode_integer(ticks(getattr(rows[at].link, attribute)), TIME_TICKS)


def _text(text: str) -> bytes:
    return encode(OCTET_STRING, text.encode("utf-8", "replace"))


def _number(attribute: str) -> Callable[[Row], bytes]:
    return lambda row: encode_integer(getattr(row.link, attribute))


def _truth(attribute: str) -> Callable[[Row], bytes]:
    return lambda row: encode_integer(_TRUE if getattr(row.link, attribute) else _FALSE)


def _counter(attribute: str, tag: int) -> Callable[[Row], bytes]:
    mask = _32_BITS if tag == COUNTER32 else 0xFFFFFFFFFFFFFFFF
    return lambda row: encode_integer(getattr(row.link.counters, attribute) & mask, tag)


def _in_unicast(tag: int) -> Callable[[Row], bytes]:
    mask = _32_BITS if tag == COUNTER32 else 0xFFFFFFFFFFFFFFFF

    def encode_(row: Row) -> bytes:
        counters = row.link.counters
        unicast = max(0, counters.in_packets - counters.in_multicast)
        return encode_integer(unicast & mask, tag)

    return encode_


def _constant(value: bytes) -> Callable[[Row], bytes]:
    return lambda _: value


def _alias(row: Row) -> bytes:
    return _text(shorten(row.behind.container or row.link.alias, MOST_ALIAS_OCTETS))


def _physical_address(row: Row) -> bytes:
    """Returns the physical address, empty if the interface has none.

    The kernel reports zeros for the loopback, and the end points of tunnels as their addresses.
    """
    address = row.link.address
    is_physical = any(address) and len(address) not in _IP_OCTETS
    return encode(OCTET_STRING, address if is_physical else b"")


def _speed(row: Row) -> bytes:
    return encode_integer(min(row.link.speed, _32_BITS), GAUGE32)


def _high_speed(row: Row) -> bytes:
    return encode_integer((row.link.speed + 500_000) // 1_000_000, GAUGE32)


def _has_connector(row: Row) -> bytes:
    """Returns True for Ethernet that no software driver provides."""
    link = row.link
    is_hardware = link.type == _ETHERNET and not link.kind
    return encode_integer(_TRUE if is_hardware else _FALSE)


_C32_ZERO = _constant(encode_integer(0, COUNTER32))
_C64_ZERO = _constant(encode_integer(0, COUNTER64))

_IF_TABLE: dict[int, Callable[[Row], bytes]] = {
    1: _number("index"),
    2: lambda row: _text(describe(row.link.name, row.behind)),
    3: _number("type"),
    4: _number("mtu"),
    5: _speed,
    6: _physical_address,
    7: lambda row: encode_integer(1 if row.link.is_admin_up else 2),
    8: _number("oper_status"),
    10: _counter("in_octets", COUNTER32),
    11: _in_unicast(COUNTER32),
    12: _counter("in_multicast", COUNTER32),
    13: _counter("in_discards", COUNTER32),
    14: _counter("in_errors", COUNTER32),
    15: _C32_ZERO,
    16: _counter("out_octets", COUNTER32),
    17: _counter("out_packets", COUNTER32),
    18: _C32_ZERO,
    19: _counter("out_discards", COUNTER32),
    20: _counter("out_errors", COUNTER32),
    21: _constant(encode_integer(0, GAUGE32)),
    22: _constant(_ZERO_DOT_ZERO),
}
_IF_X_TABLE: dict[int, Callable[[Row], bytes]] = {
    1: lambda row: _text(row.link.name),
    2: _counter("in_multicast", COUNTER32),
    3: _C32_ZERO,
    4: _C32_ZERO,
    5: _C32_ZERO,
    6: _counter("in_octets", COUNTER64),
    7: _in_unicast(COUNTER64),
    8: _counter("in_multicast", COUNTER64),
    9: _C64_ZERO,
    10: _counter("out_octets", COUNTER64),
    11: _counter("out_packets", COUNTER64),
    12: _C64_ZERO,
    13: _C64_ZERO,
    14: _constant(encode_integer(2)),  # ifLinkUpDownTrapEnable: disabled
    15: _high_speed,
    16: _truth("is_promiscuous"),
    17: _has_connector,
    18: _alias,
}
_COUNTERS64: dict[Oid, frozenset[int]] = {
    IF_ENTRY: frozenset(),
    IF_X_ENTRY: frozenset(range(6, 14)),
}
