"""Ends become Flow Records: one for each direction with packets since its last record.

The TX lane of the sender counts a direction, or the RX lane of the receiver if the sender is
remote. What records of the other lane told, before the ends were joined, is not told again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.flow.codes import Mark, Role
from probe.flow.columns import RECORD_DTYPE, In, Merge, Of, select
from probe.flow.end_table import COUNTERS, NOBODY, PACKETS, RX, TX, EndTable
from probe.flow.rows import Flags, Rows, Slots, take_rows

#: LOOPBACK_IFINDEX: what the loopback interface has in every namespace.
LOOPBACK = 1
_LOOPBACK_NET = 127
_FLIPPED_ROLE = np.array([0, 2, 1], np.uint8)
_ADDRESSES = ("local_address", "remote_address", "source_address", "destination_address")
#: (column of a record, column of the end's row): what describes the end at the source.
_SOURCE, _DESTINATION = (
    tuple((column.record_names[side], column.name) for column in select(In.METERED, Of.END))
    for side in (0, 1)
)
#: Only a sender has these, as of its latest row.
_GAUGES = tuple(column.name for column in select(In.METERED, Of.SENDER, merge=Merge.LATEST))
#: (column of a record, of the sender's row, of the receiver's row): what both see of a direction.
_SEEN = tuple(
    (column.name, *column.row_names)
    for column in select(In.METERED, Of.DIRECTION)
    if column.merge != Merge.SUM
)
#: Both sides have these of the end whose counter is used.
_COUNTING = tuple(column.name for column in select(In.METERED, Of.FLOW))


def build_records(
    table: EndTable,
    leaders: Slots,
    reasons: NDArray[np.uint8],
    now_ns: int,
    wall_offset_ns: int,
    host_netns: int,
) -> Rows:
    """Returns records of the entries with these ``leaders``, and notes what is told."""
    peers = table.peer[leaders].astype(np.int64)
    back = np.where(is_to_itself(table, leaders, peers), NOBODY, leaders)
    senders, receivers = np.concatenate([leaders, peers]), np.concatenate([peers, back])
    deltas, due = _take_deltas(table, senders, receivers)
    sent = np.flatnonzero(due & (senders != NOBODY))
    received = np.flatnonzero(due & (senders == NOBODY))
    order = np.concatenate([sent, received])
    records: Rows = np.zeros(len(order), RECORD_DTYPE)
    fill_counters(records, deltas[order])
    entry = order % len(leaders) if len(leaders) else order
    records["flow_id"] = table.flow[leaders[entry]]
    records["end_reason"] = reasons[entry]
    _fill_times(records, table, leaders, peers, entry, now_ns, wall_offset_ns)
    ends, others = table.take_rows(senders[sent]), table.take_rows(receivers[sent])
    fill_sent(records[: len(sent)], ends, others, host_netns)
    fill_received(records[len(sent) :], table.take_rows(receivers[received]), host_netns)
    fill_loopback(records, host_netns)
    return records


def is_to_itself(table: EndTable, leaders: Slots, peers: Slots) -> Flags:
    """Returns which ends are of sockets that send to themselves."""
    rows = table.rows
    same: Flags = (rows["local_port"][leaders] == rows["remote_port"][leaders]) & (peers == NOBODY)
    few = np.flatnonzero(same)
    ends = table.take_rows(leaders[few])
    same[few] = (ends["local_address"] == ends["remote_address"]).all(axis=1)
    return same


def _take_deltas(
    table: EndTable, senders: Slots, receivers: Slots
) -> tuple[NDArray[np.int64], Flags]:
    """Returns what no record has told, and which directions are due; notes what is told now."""
    shape = -1, len(COUNTERS)
    total, out = table.total.reshape(shape), table.out.reshape(shape)
    is_local = senders != NOBODY
    lane = np.where(is_local, 2 * senders + TX, 2 * receivers + RX)
    other = np.where(is_local, 2 * receivers + RX, 2 * NOBODY + RX)
    seen = total.take(lane, axis=0)
    deltas = seen - out.take(lane, axis=0) - out.take(other, axis=0)
    np.maximum(deltas, 0, out=deltas)
    due = deltas[:, PACKETS] > 0
    moved = np.flatnonzero(due)
    out[lane[moved]] += deltas[moved]
    return deltas, due


def fill_counters(records: Rows, deltas: NDArray[np.int64]) -> None:
    """``deltas`` are of shape (n, counter)."""
    for number, name in enumerate(COUNTERS):
        records[name] = deltas[:, number]


def _fill_times(
    records: Rows,
    table: EndTable,
    leaders: Slots,
    peers: Slots,
    entry: Slots,
    now_ns: int,
    wall_offset_ns: int,
) -> None:
    """Fill in times. The next record of an entry begins with its latest packet so far."""
    last = np.minimum(np.maximum(table.last_ns[leaders], table.last_ns[peers]), now_ns)
    first = np.minimum(table.since_ns[leaders], last)
    records["first_ns"] = first[entry] + wall_offset_ns
    records["last_ns"] = last[entry] + wall_offset_ns
    records["begun_ns"] = table.begun_ns[leaders[entry]] + wall_offset_ns
    exported = np.zeros(len(leaders), bool)
    exported[entry] = True
    table.since_ns[leaders] = np.where(exported, last, table.since_ns[leaders])
    table.armed_ns[leaders] = now_ns
    table.reported[leaders] |= exported
    table.reported[peers] |= exported
    table.since_ns[peers], table.armed_ns[peers] = table.since_ns[leaders], now_ns


def fill_sent(records: Rows, rows: Rows, others: Rows, host_netns: int) -> None:
    """Fill in what ``rows`` of local senders say, and ``others`` of receivers, 0 if remote."""
    _fill_counting(records, rows, "local", "remote")
    _copy(records, rows, _SOURCE)
    _copy(records, others, _DESTINATION)
    records["egress_interface"] = _host_interface(rows, host_netns)
    records["flow_direction"] = 1
    records["biflow_direction"] = _agreed_role(rows, others)
    for name, sent, _ in _SEEN:
        records[name] = rows[sent]
    for name in _GAUGES:
        records[name] = rows[name]


def _agreed_role(rows: Rows, others: Rows) -> NDArray[np.uint8]:
    """Returns the role of each source.

    Both ends of an older UDP conversation may take the same side. Then the lower port serves.
    """
    role, peer_role = rows["role"], _FLIPPED_ROLE[others["role"]]
    agreed: NDArray[np.uint8] = np.where(role, role, peer_role)
    unlike = (agreed != peer_role) & (peer_role != Role.UNKNOWN)
    if unlike.any():
        serves = rows["local_port"][unlike] < rows["remote_port"][unlike]
        agreed[unlike] = np.where(serves, Role.RESPONDER, Role.INITIATOR)
    return agreed


def fill_received(records: Rows, rows: Rows, host_netns: int) -> None:
    """Fill in what ``rows`` of receivers say. The senders are remote, and what only they know
    stays 0."""
    _fill_counting(records, rows, "remote", "local")
    _copy(records, rows, _DESTINATION)
    records["ingress_interface"] = _host_interface(rows, host_netns)
    records["biflow_direction"] = _FLIPPED_ROLE[rows["role"]]
    for name, _, received in _SEEN:
        records[name] = rows[received]


def _fill_counting(records: Rows, rows: Rows, source: str, destination: str) -> None:
    wide, ends = _by_address(records), _by_address(rows)
    wide["source_address"] = ends[f"{source}_address"]
    wide["destination_address"] = ends[f"{destination}_address"]
    records["source_port"] = rows[f"{source}_port"]
    records["destination_port"] = rows[f"{destination}_port"]
    for name in _COUNTING:
        records[name] = rows[name]
    records["estimated"] = (rows["mark"] & np.uint8(Mark.ESTIMATED)) != 0


def _copy(records: Rows, rows: Rows, columns: tuple[tuple[str, str], ...]) -> None:
    for name, column in columns:
        records[name] = rows[column]


def _host_interface(rows: Rows, host_netns: int) -> NDArray[np.uint32]:
    """Returns interface indices of ends in the host's namespace, else 0."""
    return np.where((rows["netns"] == host_netns) & (host_netns != 0), rows["ifindex"], 0)


def fill_loopback(records: Rows, host_netns: int) -> None:
    """Fill in the loopback interface where a socket of the host does not tell it.

    TCP learns its interface from a packet that it receives with a route. On loopback the answer to
    a SYN often comes while connect() holds the socket. Then the kernel drops that route.
    """
    sent = records["flow_direction"] != 0
    for column, side, is_side in (
        ("egress_interface", "source_netns", sent),
        ("ingress_interface", "destination_netns", ~sent),
    ):
        is_host = (records[side] == host_netns) & (host_netns != 0)
        few = np.flatnonzero(is_side & is_host & (records[column] == 0))
        if len(few):
            records[column][few[stays_inside(take_rows(records, few))]] = LOOPBACK


def stays_inside(records: Rows) -> Flags:
    """Returns which records are of loopback traffic, by their addresses and namespaces."""
    address = records["source_address"]
    stays = (records["ip_version"] == 4) & (address[:, 0] == _LOOPBACK_NET)
    same = records["source_netns"] == records["destination_netns"]
    stays |= same & (records["source_netns"] != 0)
    few = np.flatnonzero(~stays)
    stays[few] |= (address[few] == records["destination_address"][few]).all(axis=1)
    found: Flags = stays
    return found


def _by_address(rows: Rows) -> Rows:
    """Returns a view with whole addresses, which numpy copies in one piece."""
    fields: Mapping[str, tuple[Any, ...]] = rows.dtype.fields or {}
    names = [name for name in _ADDRESSES if name in fields]
    offsets = [fields[name][1] for name in names]
    formats = ["V16"] * len(names)
    layout = {"names": names, "formats": formats, "offsets": offsets}
    return rows.view(np.dtype({**layout, "itemsize": rows.dtype.itemsize}))  # type: ignore[call-overload]
