"""Several rows of one flow end in one batch, folded into one row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probe.flow.batch import Mark, Rows
from probe.flow.end_table import OPEN, UDP, EndTable, Slots, concatenate_rows, take_rows

_SUMMED = ("tx_octets", "rx_octets", "tx_packets", "rx_packets", "retransmitted", "lost")
_UNITED = ("tx_flags", "rx_flags", "mark")


#: After such a silence of who counted the copies of a group's datagrams, another one counts them.
_SILENT_NS = 5_000_000_000


def drop_copies(table: EndTable, rows: Rows, slots: Slots) -> tuple[Rows, Slots]:
    """Of sockets that get copies of the same datagrams (multicast, broadcast) one counts them.

    It is the one that counted them so far, unless it has closed or is silent; else the one with the
    most. The rows of the others are left out.
    """
    some = np.flatnonzero(rows["mark"] & np.uint8(Mark.GROUP))
    if not len(some):
        return rows, slots
    at, copies = slots[some], take_rows(rows, some)
    counts = (table.state[at] == OPEN) & (table.closed_ns[at] == 0)
    counts &= copies["last_ns"].astype(np.int64) - table.last_ns[at] < _SILENT_NS
    is_counter = counts & (table.rows["cookie"][at] == copies["cookie"])
    order = np.lexsort((copies["rx_packets"], is_counter, at))
    last = np.append(at[order][1:] != at[order][:-1], True)
    chosen = np.zeros(int(at.max()) + 1, np.uint64)
    chosen[at[order][last]] = copies["cookie"][order][last]
    chosen[at[counts]] = table.rows["cookie"][at[counts]]
    kept = np.ones(len(rows), bool)
    kept[some] = copies["cookie"] == chosen[at]
    return take_rows(rows, np.flatnonzero(kept)), slots[kept]


def fold_rows(
    rows: Rows, slots: NDArray[np.int64], scratch: NDArray[np.int32]
) -> tuple[Rows, NDArray[np.int64]]:
    """Rows with distinct slots: deltas summed, flags united, the rest from the latest row.

    ``scratch`` is as long as the highest slot needs; its content does not matter. A socket that
    opens and closes within a tick has a row from the snapshot and one from the ring, in any
    order, so the latest is the one with the greatest ``last_ns``.
    """
    order = np.arange(len(slots), dtype=np.int32)
    scratch[slots] = order
    overwritten = np.flatnonzero(scratch[slots] != order)
    if not len(overwritten):
        return rows, slots
    scratch[slots] = 0
    scratch[slots[overwritten]] = 1
    repeated = scratch[slots] == 1
    folded, folded_slots = _fold(take_rows(rows, np.flatnonzero(repeated)), slots[repeated])
    return (
        concatenate_rows([take_rows(rows, np.flatnonzero(~repeated)), folded]),
        np.concatenate([slots[~repeated], folded_slots]),
    )


def _fold(rows: Rows, slots: NDArray[np.int64]) -> tuple[Rows, NDArray[np.int64]]:
    order = np.lexsort((rows["mark"] & 1, rows["last_ns"], slots))
    rows, slots = take_rows(rows, order), slots[order]
    starts = np.flatnonzero(np.r_[True, slots[1:] != slots[:-1]])
    ends = np.r_[starts[1:], len(slots)] - 1
    folded = take_rows(rows, ends)
    for name in _SUMMED:
        folded[name] = np.add.reduceat(rows[name], starts)
    for name in _UNITED:
        folded[name] = np.bitwise_or.reduceat(rows[name], starts)
    # a UDP port that closed and was taken over by another socket is open
    last, closed = rows["mark"][ends], np.uint8(Mark.CLOSED)
    reopened = (last & closed == 0) & (folded["protocol"] == UDP)
    folded["mark"][reopened] &= ~closed
    folded["start_ns"] = np.minimum.reduceat(rows["start_ns"], starts)
    for name in ("owner", "owner_source", "ifindex", "role", "isn_local", "isn_remote"):
        folded[name] = np.where(folded[name], folded[name], np.maximum.reduceat(rows[name], starts))
    return folded, slots[ends]
