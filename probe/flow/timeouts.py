"""When entries of the cache are due, when they are evicted, and when they are forgotten."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.flow.codes import TCP, EndReason
from probe.flow.end_table import ENDED, EndTable
from probe.flow.rows import Slots


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Nanoseconds. ``join_wait``: how long a closed end waits for its peer to close.

    ``linger``: how long an ended entry is remembered, so that a late peer makes no second record.
    """

    active: int
    idle: int
    join_wait: int
    linger: int

    def find_due(self, table: EndTable, leaders: Slots, now_ns: int) -> NDArray[np.uint8]:
        """Returns the EndReason of each entry that is due, 0 for the others."""
        peers = table.peer[leaders]
        closed, peer_closed = table.closed_ns[leaders], table.closed_ns[peers]
        both = (closed > 0) & (peer_closed > 0)
        first_close = np.where(both, np.minimum(closed, peer_closed), closed + peer_closed)
        waited = now_ns - first_close >= self.join_wait
        last = np.maximum(table.last_ns[leaders], table.last_ns[peers])
        reasons = np.zeros(len(leaders), np.uint8)
        reasons[now_ns - table.armed_ns[leaders] >= self.active] = EndReason.ACTIVE_TIMEOUT
        reasons[now_ns - last >= self.idle] = EndReason.IDLE_TIMEOUT
        reasons[first_close > 0] = 0  # a closing flow has one last record, at its end
        reasons[both | ((first_close > 0) & waited)] = EndReason.END_OF_FLOW
        return reasons

    def find_forgotten(self, table: EndTable, most: int, now_ns: int) -> Slots:
        """Returns the ended ends to forget. ``most`` of the others are kept, the latest ones.

        A TCP end whose socket still lives is remembered until it closes, too. But a close that the
        kernel half lost must not be remembered for ever.
        """
        ended = np.flatnonzero(table.state[: table.top] == ENDED)
        peers = table.peer[ended]
        is_live = (table.closed_ns[ended] == 0) | ((peers > 0) & (table.closed_ns[peers] == 0))
        held = is_live & (table.rows["protocol"][ended] == TCP)
        over = (now_ns - table.ended_ns[ended] >= self.linger) & ~held
        excess = len(ended) - int(np.count_nonzero(over)) - most
        if excess > 0:
            oldest = np.argsort(np.where(over, np.iinfo(np.int64).max, table.ended_ns[ended]))
            over[oldest[:excess]] = True
        forgotten: Slots = ended[over]
        return forgotten


def evict(table: EndTable, leaders: Slots, reasons: NDArray[np.uint8], most: int) -> int:
    """Makes the least recently active entries due where more than ``most`` would stay.

    Returns how many these are.
    """
    staying = np.flatnonzero((reasons == 0) | (reasons == EndReason.ACTIVE_TIMEOUT))
    excess = len(staying) - most
    if excess <= 0:
        return 0
    ends = leaders[staying]
    last = np.maximum(table.last_ns[ends], table.last_ns[table.peer[ends]])
    oldest = staying[np.argpartition(last, excess - 1)[:excess]]
    reasons[oldest] = EndReason.LACK_OF_RESOURCES
    return excess
