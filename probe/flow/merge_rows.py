"""Several rows of one end in one batch become one row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probe.flow.codes import UDP, Mark
from probe.flow.columns import KEPT, UFUNCS, In, select
from probe.flow.rows import Rows, concatenate_rows, take_rows

#: Columns that numpy can merge, and with what.
_REDUCED = tuple(
    (name, UFUNCS[column.merge])
    for column in select(In.ROW)
    if column.merge in UFUNCS
    for name in column.row_names
)


def merge_rows(
    rows: Rows, slots: NDArray[np.int64], scratch: NDArray[np.int32]
) -> tuple[Rows, NDArray[np.int64]]:
    """Returns one row for each slot, merged as the schema says, and these slots.

    A socket that opens and closes between two reads has a row from the snapshot and one from the
    ring, in any order. So the latest row is the one with the greatest ``last_ns``. ``scratch`` is
    as long as the highest slot needs, and its content does not matter.
    """
    order = np.arange(len(slots), dtype=np.int32)
    scratch[slots] = order
    overwritten = np.flatnonzero(scratch[slots] != order)
    if not len(overwritten):
        return rows, slots
    scratch[slots] = 0
    scratch[slots[overwritten]] = 1
    repeated = scratch[slots] == 1
    merged, merged_slots = _merge(take_rows(rows, np.flatnonzero(repeated)), slots[repeated])
    return (
        concatenate_rows([take_rows(rows, np.flatnonzero(~repeated)), merged]),
        np.concatenate([slots[~repeated], merged_slots]),
    )


def _merge(rows: Rows, slots: NDArray[np.int64]) -> tuple[Rows, NDArray[np.int64]]:
    order = np.lexsort((rows["mark"] & np.uint8(Mark.CLOSED), rows["last_ns"], slots))
    rows, slots = take_rows(rows, order), slots[order]
    starts = np.flatnonzero(np.r_[True, slots[1:] != slots[:-1]])
    ends = np.r_[starts[1:], len(slots)] - 1
    merged = take_rows(rows, ends)
    for name, ufunc in _REDUCED:
        merged[name] = ufunc.reduceat(rows[name], starts)
    place = np.arange(len(rows))
    for key, names in KEPT.items():
        known = np.maximum.reduceat(np.where(rows[key] != 0, place, -1), starts)
        latest = np.where(known < 0, ends, known)
        for name in names:
            merged[name] = rows[name][latest]
    # A UDP port that one socket closed and another one took over is open.
    last, closed = rows["mark"][ends], np.uint8(Mark.CLOSED)
    reopened = (last & closed == 0) & (merged["protocol"] == UDP)
    merged["mark"][reopened] &= ~closed
    return merged, slots[ends]
