"""The schema of flow columns: one line a column. Every array of flows and events follows from it.

A source gives *rows*, one for each end of a flow. The cache makes *records* of them, one for each
direction. A *Biflow* is a record that tells both directions (RFC 5103). An *event* is one moment of
one end. What a column belongs to decides under which names these arrays have it::

    of           in rows and events   in records                in Biflows, in addition
    END          x                    source_x, destination_x
    BOTH_ENDS    local_x, remote_x    source_x, destination_x
    DIRECTION    tx_x, rx_x           x                         reverse_x
    SENDER       x                    x                         reverse_x
    FLOW         x                    x

An END tells its column of itself; of BOTH_ENDS it knows the peer's, too. Both ends count what goes
in a DIRECTION; only its SENDER knows the rest. ``merge`` says what becomes of two rows of one end.
So nothing else lists columns: whoever sums, keeps, unites or reverses them asks ``select``.

CONTRIBUTING.md shows how to add a column.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, IntFlag, auto

import numpy as np


class Of(Enum):
    """What a column belongs to."""

    END = auto()
    BOTH_ENDS = auto()
    DIRECTION = auto()
    SENDER = auto()
    FLOW = auto()


class Merge(Enum):
    """What a column has after a later row of the same end came."""

    LATEST = auto()  # the later value
    KNOWN = auto()  # the later value unless it is 0, which means unknown
    SUM = auto()  # rows bring what was counted since the row before
    UNION = auto()  # of bits
    LEAST = auto()
    GREATEST = auto()


class In(IntFlag):
    """The arrays that have a column. A Biflow has what a record has."""

    ROW = 1
    RECORD = 2
    EVENT = 4
    METERED = ROW | RECORD  # a source delivers it, and records tell it


#: numpy's way to merge two values; of LATEST and KNOWN there is none.
UFUNCS: dict[Merge, np.ufunc] = {
    Merge.SUM: np.add,
    Merge.UNION: np.bitwise_or,
    Merge.LEAST: np.minimum,
    Merge.GREATEST: np.maximum,
}
_PREFIXES = {
    Of.END: ("",),
    Of.BOTH_ENDS: ("local_", "remote_"),
    Of.DIRECTION: ("tx_", "rx_"),
    Of.SENDER: ("",),
    Of.FLOW: ("",),
}
_SIDES = ("source_", "destination_")


@dataclass(frozen=True, slots=True)
class Column:
    """One column. ``kind`` is numpy's ('u1[16]' is sixteen octets); 0 means unknown.

    ``raw_kind``: its kind in rows and events, where that differs. ``row`` and ``record``: its names
    there, where these do not follow from ``of``. ``known_by``: the column whose 0 says that this
    one is unknown, where it is not its own.
    """

    name: str
    kind: str
    of: Of
    arrays: In
    merge: Merge = Merge.LATEST
    raw_kind: str = ""
    row: tuple[str, ...] = ()
    record: tuple[str, ...] = ()
    known_by: str = ""

    @property
    def row_names(self) -> tuple[str, ...]:
        """Of DIRECTION what the end sent and what it received, of BOTH_ENDS the end's own first."""
        return self.row or tuple(f"{prefix}{self.name}" for prefix in _PREFIXES[self.of])

    @property
    def record_names(self) -> tuple[str, ...]:
        """Of ends the source's first."""
        if self.record or self.of not in (Of.END, Of.BOTH_ENDS):
            return self.record or (self.name,)
        return tuple(f"{side}{self.name}" for side in _SIDES)

    @property
    def has_reverse(self) -> bool:
        return self.of in (Of.DIRECTION, Of.SENDER) and In.RECORD in self.arrays


_ALL = In.ROW | In.RECORD | In.EVENT
_SEEN = In.ROW | In.EVENT
_OCTETS = "u1[16]"

#: Times are nanoseconds: of CLOCK_MONOTONIC in rows, Unix time in records and events.
COLUMNS = (
    # Names. ``id``: of the end, as the source calls it; ``flow_id``: of the flow, in all records.
    Column("id", "u8", Of.END, In.ROW),
    Column("flow_id", "u8", Of.FLOW, In.RECORD | In.EVENT),
    Column("cookie", "u8", Of.END, _SEEN),  # of the socket; in events of containers the cgroup's id
    # Times. ``begun_ns``: when the flow began, which is before this record of it began; 0: with it.
    Column("time_ns", "i8", Of.FLOW, In.EVENT),
    Column("first_ns", "i8", Of.SENDER, In.METERED, Merge.LEAST, "u8", row=("start_ns",)),
    Column("last_ns", "i8", Of.SENDER, In.METERED, Merge.GREATEST, "u8"),
    Column("begun_ns", "i8", Of.FLOW, In.RECORD),
    # Counters: of the IP layer, and of TCP segments.
    Column("octets", "u8", Of.DIRECTION, _ALL, Merge.SUM),
    Column("packets", "u8", Of.DIRECTION, _ALL, Merge.SUM),
    Column("retransmitted", "u4", Of.SENDER, In.METERED, Merge.SUM),
    Column("lost", "u4", Of.SENDER, In.METERED, Merge.SUM),
    # Gauges of TCP: segments, octets a second, microseconds.
    Column("unacknowledged", "u4", Of.SENDER, In.METERED),
    Column("congestion_window", "u4", Of.SENDER, In.METERED),
    Column("pacing_rate", "u8", Of.SENDER, In.METERED),
    Column("delivery_rate", "u8", Of.SENDER, In.METERED),
    Column("rtt_us", "u4", Of.FLOW, _ALL),
    Column("rtt_var_us", "u4", Of.FLOW, _ALL),
    # The Flow Key. IPv4 addresses are in the first four octets.
    Column("address", _OCTETS, Of.BOTH_ENDS, _ALL),
    Column("port", "u2", Of.BOTH_ENDS, _ALL),
    Column("protocol", "u1", Of.FLOW, _ALL),
    Column("ip_version", "u1", Of.FLOW, _ALL),  # 0 in events of containers
    # Who and where an end is. ``owner`` is an index of the OwnerTable, ``netns`` a cookie.
    Column("owner", "u4", Of.END, _ALL, Merge.KNOWN, "u8"),
    Column("owner_source", "u1", Of.END, _ALL, Merge.KNOWN, known_by="owner"),
    Column("netns", "u8", Of.END, _ALL),
    Column("netns_inode", "u4", Of.END, _ALL),
    Column("ifindex", "u4", Of.END, _ALL, Merge.KNOWN),  # as the end's namespace counts them
    Column("remote_owner", "u4", Of.FLOW, In.EVENT),  # where somebody elsewhere has the address
    # What the protocol says. ``isn``: initial sequence numbers, by which two ends find each other.
    Column("isn_local", "u4", Of.END, In.ROW, Merge.KNOWN),
    Column("isn_remote", "u4", Of.END, In.ROW, Merge.KNOWN),
    Column("tcp_state", "u1", Of.FLOW, _ALL),  # by number of include/net/tcp_states.h
    Column("tcp_flags", "u1", Of.DIRECTION, In.METERED, Merge.UNION, row=("tx_flags", "rx_flags")),
    Column("dscp", "u1", Of.SENDER, In.METERED),
    Column("role", "u1", Of.END, _SEEN, Merge.KNOWN),  # flow.codes.Role
    Column("mark", "u1", Of.END, In.ROW, Merge.UNION),  # flow.codes.Mark
    # What the cache finds. ``flow_direction``: 1 where the sender is an end on this host.
    Column("flow_direction", "u1", Of.FLOW, In.RECORD),
    Column("biflow_direction", "u1", Of.FLOW, In.RECORD),  # flow.codes.Role of the source
    Column("end_reason", "u1", Of.FLOW, In.RECORD),  # flow.codes.EndReason
    Column("estimated", "u1", Of.FLOW, In.RECORD, Merge.UNION),  # 1: a part of the counters
    # What is found of records afterwards. Interfaces are those of the host. Where ``translated`` is
    # 1 the NAT columns have the Flow Key as it left the host's NAT (RFC 8158); else they are 0.
    Column("interface", "u4", Of.END, In.RECORD, Merge.KNOWN,
           record=("egress_interface", "ingress_interface")),
    Column("nat_address", "u1[4]", Of.END, In.RECORD, Merge.KNOWN, known_by="translated",
           record=("nat_source_address", "nat_destination_address")),
    Column("nat_port", "u2", Of.END, In.RECORD, Merge.KNOWN, known_by="translated",
           record=("nat_source_port", "nat_destination_port")),
    Column("translated", "u1", Of.FLOW, In.RECORD, Merge.UNION),
    # Of events: errno of a CONNECT_FAILED, 0 when unknown; segments of a RETRANSMIT, else 1.
    Column("error", "u4", Of.FLOW, In.EVENT),
    Column("count", "u4", Of.FLOW, In.EVENT),
    Column("kind", "u1", Of.FLOW, In.EVENT),  # flow.codes.EventKind
)  # fmt: skip


def select(arrays: In, *of: Of, merge: Merge | None = None) -> tuple[Column, ...]:
    """Returns the columns that all of ``arrays`` have; all of them, or those that fit the rest."""
    return tuple(
        column
        for column in COLUMNS
        if arrays in column.arrays and column.of in (of or Of) and merge in (None, column.merge)
    )


def row_names(columns: Iterable[Column]) -> tuple[str, ...]:
    """Returns the names that rows have for ``columns``."""
    return tuple(name for column in columns for name in column.row_names)


def _kept() -> dict[str, tuple[str, ...]]:
    known = select(In.ROW, merge=Merge.KNOWN)
    keys = dict.fromkeys(column.known_by or column.name for column in known)
    return {
        key: row_names(column for column in known if (column.known_by or column.name) == key)
        for key in keys
    }


#: A column of rows whose 0 means unknown -> the columns that keep their value then.
KEPT = _kept()

Field = tuple[str, str] | tuple[str, str, int]


def _fields(named: Iterable[tuple[str, str]], pad: str = "pad") -> list[Field]:
    """Fields by their length, so that all are aligned; octets without a name fill the last word."""
    fields: list[Field] = []
    for name, kind in named:
        base, _, count = kind.rstrip("]").partition("[")
        fields.append((name, base, int(count)) if count else (name, base))
    fields.sort(key=lambda field: -np.dtype([field]).itemsize)
    if missing := -np.dtype(fields).itemsize % 8:
        fields.append((pad, "u1", missing))
    return fields


def _raw(array: In) -> dict[str, str]:
    """Names and kinds in rows or events."""
    return {
        name: column.raw_kind or column.kind
        for column in COLUMNS
        if array in column.arrays
        for name in column.row_names
    }


#: What every source delivers of one end: the counters since its previous row, and what it knows.
ROW_KINDS = _raw(In.ROW)
ROW_DTYPE = np.dtype(_fields(ROW_KINDS.items()))
#: What happened to one end. Octets are those since the flow began, and of SEND and RECV those of
#: the datagram. An event of a container has an owner, a time and a cookie, but no flow.
EVENT_KINDS = _raw(In.EVENT)
EVENT_DTYPE = np.dtype(_fields(EVENT_KINDS.items()))

_RECORD_FIELDS = _fields(
    (name, column.kind)
    for column in COLUMNS
    if In.RECORD in column.arrays
    for name in column.record_names
)
_REVERSE_FIELDS = _fields(
    ((f"reverse_{column.name}", column.kind) for column in COLUMNS if column.has_reverse),
    "reverse_pad",
)
#: One direction of a flow, ready for export.
RECORD_DTYPE = np.dtype(_RECORD_FIELDS)
#: A record of the forward direction, and what the other one tells of itself. Where only one
#: direction had packets, the times of the other equal its own: the cache keeps the times of the
#: flow, not of each direction, and 0 would say 1970.
BIFLOW_DTYPE = np.dtype([*_RECORD_FIELDS, *_REVERSE_FIELDS])

#: A socket that waits for peers: TCP in LISTEN (``tcp_state`` 10), UDP without one (7). One row
#: when it appears, and one with ``gone`` 1 when it is no more.
SOCKET_DTYPE = np.dtype(
    _fields(
        {
            **{name: EVENT_KINDS[name] for name in (
                "owner", "cookie", "local_address", "netns_inode", "local_port", "ip_version",
                "protocol", "tcp_state", "owner_source",
            )},
            "receive_queue": "u4",
            "gone": "u1",
        }.items()
    )
)  # fmt: skip
