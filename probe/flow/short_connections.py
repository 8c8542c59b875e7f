"""Short connections: both ends closed in one batch, and no row of either came before.

Most connections that last less than a read are so. No more can come of them, so they become records
at once, and the table of ends never has them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probe.flow.codes import TCP, EndReason, Mark
from probe.flow.columns import RECORD_DTYPE, In, Merge, select
from probe.flow.record import fill_loopback, fill_sent
from probe.flow.rows import Rows, Slots, take_rows

_HALF = np.uint64(32)
#: (column of a record, column of the sender's row).
_COUNTED = tuple(
    (column.name, column.row_names[0]) for column in select(In.METERED, merge=Merge.SUM)
)
_LAST_OF_NEW = np.uint8(Mark.CLOSED | Mark.PREEXISTING)


def match_ends(rows: Rows, longest_ns: int) -> tuple[Slots, Slots]:
    """Returns places (a, b) of closed TCP ends that have each other's initial sequence numbers.

    Ends that are older than the probe or than ``longest_ns`` are left out, since earlier records
    may be of them. So are ends whose numbers a third closed end has, too.
    """
    local, remote = rows["isn_local"], rows["isn_remote"]
    fits = (rows["mark"] & _LAST_OF_NEW) == Mark.CLOSED
    fits &= (rows["protocol"] == TCP) & (local != remote)
    fits &= rows["last_ns"] <= rows["start_ns"] + np.uint64(longest_ns)
    chosen = np.flatnonzero(fits)
    local, remote = local[chosen], remote[chosen]
    keys = np.maximum(local, remote).astype(np.uint64) << _HALF | np.minimum(local, remote)
    order = np.argsort(keys)
    at = _pairs(keys[order])
    a, b = order[at], order[at + 1]
    mirrored = local[a] == remote[b]
    return chosen[a[mirrored]], chosen[b[mirrored]]


def _pairs(ordered: NDArray[np.uint64]) -> Slots:
    """Returns the first of each two neighbours that are equal to each other and to no third."""
    equal = np.zeros(len(ordered) + 1, bool)
    equal[1:-1] = ordered[1:] == ordered[:-1]
    return np.flatnonzero(equal[1:-1] & ~equal[:-2] & ~equal[2:])


def build_short_records(rows: Rows, a: Slots, b: Slots, now_ns: int, host_netns: int) -> Rows:
    """Returns records of the connections between rows a[i] and b[i].

    There is one for each direction with packets. Their times are CLOCK_MONOTONIC, as in the rows.
    """
    both = (2, len(a))  # directions and connections
    senders = take_rows(rows, np.concatenate([a, b])).reshape(both)
    started = np.minimum(senders["start_ns"].min(axis=0), now_ns)
    ended = np.minimum(np.maximum(senders["last_ns"].max(axis=0), started), now_ns)
    records: Rows = np.zeros(both, RECORD_DTYPE)
    records["first_ns"], records["last_ns"] = started, ended
    records["begun_ns"] = started
    records["flow_id"] = senders["id"].min(axis=0)
    for name, sent in _COUNTED:
        records[name] = senders[sent]
    records["end_reason"] = EndReason.END_OF_FLOW
    fill_sent(records, senders, senders[::-1], host_netns)
    records = records.reshape(-1)
    fill_loopback(records, host_netns)
    silent = records["packets"] == 0
    return take_rows(records, np.flatnonzero(~silent)) if silent.any() else records
