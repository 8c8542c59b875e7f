"""UDP flows that get another owner: what each of them sent and got becomes a record of its own.

Theory of operation. A Flow Key goes from one socket to the next, as ports of short-lived DNS
clients do. A socket goes from one process to the next. The flow stays in its slot, with the latest
owner. ::

    rows of a slot, by time     owner 7   owner 7   owner 9   owner 9   owner 4
                                '----- part -----'  '----- part -----'  stays in the table

What a former owner has is a *part*. It becomes a record at once, with the flow_id of the flow. The
table counts it as told in both lanes of the end, so that no packet is told twice. A part may begin
in the table, with what an earlier batch left there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.flow.codes import UDP, EndReason, Mark, OwnerSource
from probe.flow.columns import KEPT, RECORD_DTYPE
from probe.flow.end_table import FREE, NOBODY, PACKETS, RX, TX, EndTable, deltas_of
from probe.flow.key_index import distinct
from probe.flow.record import fill_counters, fill_loopback, fill_received, fill_sent, is_to_itself
from probe.flow.rows import Flags, Rows, Slots, concatenate_rows, take_rows


@dataclass(slots=True)
class Parts:
    """What former owners have: in order of time within each slot.

    Counts are of shape (n, lane, counter). ``deltas``: of the part. ``until``: of its slot, up to
    the end of the part. ``of_slot``: of all that its slot has.
    """

    rows: Rows
    slots: Slots
    deltas: NDArray[np.int64]
    until: NDArray[np.int64]
    of_slot: NDArray[np.int64]
    first_ns: NDArray[np.int64]
    last_ns: NDArray[np.int64]


def find_parts(table: EndTable, rows: Rows, slots: Slots) -> Parts | None:
    """Returns what former owners have, in the table and in a batch that is not added to it yet.

    Returns None if nothing changed hands.
    """
    some = _with_changes(table, rows, slots)
    if not len(some):
        return None
    at = distinct(slots[some])
    at = at[table.state[at] != FREE]  # an ended one will be open again
    rows, slots = take_rows(rows, some), slots[some]
    order = np.lexsort((rows["last_ns"], slots))
    rows, slots = take_rows(rows, order), slots[order]
    pending = table.take_rows(at)
    _take_next_owner(pending, at, rows, slots)
    deltas = np.concatenate([_untold(table, at), deltas_of(rows)])
    first = np.concatenate([table.since_ns[at], rows["start_ns"].astype(np.int64)])
    rows = concatenate_rows([pending, rows.astype(pending.dtype, copy=False)])
    slots = np.concatenate([at, slots])
    order = np.argsort(slots, kind="stable")  # what is pending comes first
    return _group(take_rows(rows, order), slots[order], deltas[order], first[order])


def _with_changes(table: EndTable, rows: Rows, slots: Slots) -> Slots:
    """Returns places of rows in slots with several owners, that of the table among them."""
    fits = (rows["protocol"] == UDP) & (rows["owner"] != 0)
    fits &= (rows["owner_source"] != OwnerSource.SHARED) & (
        rows["mark"] & np.uint8(Mark.GROUP) == 0
    )
    where = np.flatnonzero(fits)
    at, owners = slots[where], rows["owner"][where].astype(np.int32)
    table.scratch[at] = owners
    changes = table.scratch[at] != owners
    known = (table.state[at] != FREE) & _is_told_apart(table.rows, at)
    changes |= known & (table.rows["owner"][at] != owners)
    if not changes.any():
        return where[:0]
    table.scratch[at] = 0
    table.scratch[at[changes]] = 1
    changing: Slots = where[table.scratch[at] == 1]
    return changing


def _is_told_apart(rows: Rows, at: Slots) -> Flags:
    told: Flags = (rows["owner"][at] != 0) & (rows["owner_source"][at] != OwnerSource.SHARED)
    return told


def _take_next_owner(pending: Rows, at: Slots, rows: Rows, slots: Slots) -> None:
    """Give what nobody known has, or one of many who share a socket, to the next owner."""
    next_row = np.searchsorted(slots, at)
    unknown = np.flatnonzero(~_is_told_apart(pending, np.arange(len(pending))))
    for name in KEPT["owner"]:
        pending[name][unknown] = rows[name][next_row[unknown]]


def _untold(table: EndTable, slots: Slots) -> NDArray[np.int64]:
    """Returns what the lanes of each end have and no record of it or its peer has told."""
    peers = table.peer[slots].astype(np.int64)
    told = table.out[slots] + table.out[peers][:, ::-1]
    untold: NDArray[np.int64] = np.maximum(table.total[slots] - told, 0)
    return untold


def _group(rows: Rows, slots: Slots, deltas: NDArray[np.int64], first: NDArray[np.int64]) -> Parts:
    """Makes a part of rows next to each other with one owner, but for the last ones of a slot."""
    is_new_slot = np.r_[True, slots[1:] != slots[:-1]]
    starts = np.flatnonzero(is_new_slot | np.r_[True, rows["owner"][1:] != rows["owner"][:-1]])
    ends = np.r_[starts[1:], len(rows)] - 1
    sums = np.add.reduceat(deltas, starts)
    grouped = slots[ends]
    until = np.cumsum(sums, axis=0)
    slot_starts = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]])
    slot_of = np.cumsum(np.r_[True, grouped[1:] != grouped[:-1]]) - 1
    until -= (until - sums)[slot_starts][slot_of]
    of_slot = np.add.reduceat(sums, slot_starts)[slot_of]
    last = np.maximum.reduceat(rows["last_ns"].astype(np.int64), starts)
    began = np.minimum.reduceat(first, starts)
    began[1:] = np.where(is_new_slot[starts[1:]], began[1:], np.maximum(began[1:], last[:-1]))
    former = np.flatnonzero(np.r_[grouped[1:] == grouped[:-1], False])
    return Parts(
        take_rows(rows, ends[former]), grouped[former], sums[former], until[former],
        of_slot[former], np.minimum(began, last)[former], last[former],
    )  # fmt: skip


def build_part_records(table: EndTable, parts: Parts, now_ns: int, host_netns: int) -> Rows:
    """Returns records of the parts, whose ends are joined by now. Times are CLOCK_MONOTONIC."""
    peers = table.peer[parts.slots].astype(np.int64)
    is_first = (peers == NOBODY) | (parts.slots < peers)
    # Where both ends change owners, the parts of the second end are what those of the first leave.
    turns = (np.flatnonzero(is_first), np.flatnonzero(~is_first))
    found = [_build(table, parts, at, now_ns, host_netns) for at in turns if len(at)]
    return concatenate_rows([np.zeros(0, RECORD_DTYPE), *found])


def _build(table: EndTable, parts: Parts, where: Slots, now_ns: int, host_netns: int) -> Rows:
    slots = parts.slots[where]
    peers = table.peer[slots].astype(np.int64)
    deltas = _take(table, parts, where, peers)
    own, others = take_rows(parts.rows, where), table.take_rows(peers)
    received = np.where(is_to_itself(table, slots, peers), 0, deltas[:, RX, PACKETS])
    from_local = np.flatnonzero((received > 0) & (peers != NOBODY))
    from_remote = np.flatnonzero((received > 0) & (peers == NOBODY))
    sent = np.flatnonzero(deltas[:, TX, PACKETS] > 0)
    at = np.concatenate([sent, from_local, from_remote])
    records: Rows = np.zeros(len(at), RECORD_DTYPE)
    ends = np.cumsum([len(sent), len(from_local)])
    fill_sent(records[: ends[0]], own[sent], others[sent], host_netns)
    fill_sent(records[ends[0] : ends[1]], others[from_local], own[from_local], host_netns)
    fill_received(records[ends[1] :], own[from_remote], host_netns)
    fill_loopback(records, host_netns)
    lane = np.where(np.arange(len(at)) < ends[0], TX, RX)
    fill_counters(records, deltas[at, lane])
    last = np.minimum(parts.last_ns[where], now_ns)
    records["last_ns"] = last[at]
    records["first_ns"] = np.minimum(parts.first_ns[where], last)[at]
    records["begun_ns"] = np.minimum(table.begun_ns[slots[at]], records["first_ns"])
    records["flow_id"] = table.flow[slots[at]]
    records["end_reason"] = EndReason.END_OF_FLOW
    _go_on(table, slots, peers, last)
    return records


def _take(table: EndTable, parts: Parts, where: Slots, peers: Slots) -> NDArray[np.int64]:
    """Returns what no record has told yet, and notes that it is told now.

    What records of the peer have told was the earliest.
    """
    slots = parts.slots[where]
    left = table.total[slots] - table.out[slots] - table.out[peers][:, ::-1]
    told = np.maximum(parts.of_slot[where] - left, 0)
    deltas: NDArray[np.int64] = np.clip(parts.until[where] - told, 0, parts.deltas[where])
    np.add.at(table.out, slots, deltas)
    return deltas


def _go_on(table: EndTable, slots: Slots, peers: Slots, last: NDArray[np.int64]) -> None:
    """Let the next records of the entries begin where the parts end."""
    for ends in (slots, peers[peers != NOBODY]):
        table.reported[ends] = True
    np.maximum.at(table.since_ns, slots, last)
    joined = np.flatnonzero(peers != NOBODY)
    np.maximum.at(table.since_ns, peers[joined], last[joined])
