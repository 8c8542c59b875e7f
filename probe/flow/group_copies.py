"""Sockets that get copies of the same datagrams, by multicast or broadcast: one counts them."""

from __future__ import annotations

import numpy as np

from probe.flow.codes import Mark
from probe.flow.end_table import OPEN, EndTable
from probe.flow.rows import Rows, Slots, take_rows

#: A socket that was silent for so long no longer counts the copies; another one does.
_SILENT_NS = 5_000_000_000


def drop_copies(table: EndTable, rows: Rows, slots: Slots) -> tuple[Rows, Slots]:
    """Returns ``rows`` and ``slots`` without the rows of sockets that do not count.

    The socket that has counted so far goes on, unless it has closed or is silent. Else the one that
    received most counts from now on.
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
