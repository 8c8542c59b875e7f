"""The ends of flows: one slot for each end, in flat arrays that grow on demand.

Theory of operation. An *end* is a TCP socket, or a UDP Flow Key as one namespace uses it. A slot is
FREE until an end is opened in it, OPEN while its flow lives, and ENDED while its flow is over but
remembered, so that a late row makes no second record. ::

    FREE --open--> OPEN --the cache ends its flow--> ENDED --release--> FREE
                    ^--------- revive (UDP) ----------'

Of each end the table has its latest row, and two *lanes*: what it sent and what it received. A lane
has a sum of each counter, ``total``, and what records have told of it, ``out``. Two ends whose
``peer`` is each other are one *entry*: one flow with one flow_id. ``since_ns``, ``begun_ns``,
``armed_ns`` and ``flow`` belong to the entry, so both of its ends have the same.

Slot 0 is NOBODY. Its row and its counters stay 0, so whoever gathers through ``peer`` needs no mask
for ends without one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probe.flow.codes import UDP, Mark
from probe.flow.columns import KEPT, ROW_DTYPE, In, Merge, row_names, select
from probe.flow.keys import Words, join_words
from probe.flow.rows import Rows, Slots, convert_rows, put_rows, take_rows

NOBODY = 0
FREE, OPEN, ENDED = 0, 1, 2

#: Lanes of an end: what it sent and what it received.
TX, RX = 0, 1
_COUNTED = select(In.METERED, merge=Merge.SUM)
#: The counters of a lane, by their names in records.
COUNTERS = tuple(column.name for column in _COUNTED)
PACKETS = COUNTERS.index("packets")
#: (lane, counter, column of a row). Only the sender knows some, which stay 0 in the RX lane.
_LANES = tuple(
    (lane, number, name)
    for number, column in enumerate(_COUNTED)
    for lane, name in enumerate(column.row_names)
)

_FIRST_CAPACITY = 1024
_UNITED = row_names(select(In.ROW, merge=Merge.UNION))


class EndTable:
    """Arrays by slot. ``total`` and ``out`` are of shape (capacity, lane, counter)."""

    def __init__(self) -> None:
        lanes = (_FIRST_CAPACITY, 2, len(COUNTERS))
        self.rows: Rows = np.zeros(_FIRST_CAPACITY, ROW_DTYPE)  # latest row of each end
        self.total = np.zeros(lanes, np.int64)
        self.out = np.zeros(lanes, np.int64)
        self.state = np.zeros(_FIRST_CAPACITY, np.uint8)
        self.peer = np.zeros(_FIRST_CAPACITY, np.int32)
        self.flow = np.zeros(_FIRST_CAPACITY, np.uint64)
        self.last_ns = np.zeros(_FIRST_CAPACITY, np.int64)  # latest packet
        self.begun_ns = np.zeros(_FIRST_CAPACITY, np.int64)  # the first that was known of the end
        self.since_ns = np.zeros(_FIRST_CAPACITY, np.int64)  # where the next record begins
        self.armed_ns = np.zeros(_FIRST_CAPACITY, np.int64)  # the active timeout counts from here
        self.closed_ns = np.zeros(_FIRST_CAPACITY, np.int64)  # 0 while the socket lives
        self.ended_ns = np.zeros(_FIRST_CAPACITY, np.int64)
        self.key = np.zeros(_FIRST_CAPACITY, np.uint64)  # of WaitingEnds; 0: does not wait
        self.group = np.zeros(_FIRST_CAPACITY, np.int64)  # of WaitingEnds: those with that key
        self.mirror = np.zeros(_FIRST_CAPACITY, np.uint64)  # the key that a peer waits under
        self.is_loose = np.zeros(_FIRST_CAPACITY, bool)
        self.reported = np.zeros(_FIRST_CAPACITY, bool)  # a record of the entry has left
        self.asked = np.zeros(_FIRST_CAPACITY, bool)  # what NAT made of its key was looked up
        self._translated: dict[int, NDArray[np.uint64]] = {}  # slot -> words of its peer
        self.scratch = np.zeros(_FIRST_CAPACITY, np.int32)
        self._top = NOBODY + 1
        self._free: Slots = np.zeros(0, np.int64)

    def __len__(self) -> int:
        """Returns how many slots are in use."""
        return self._top - 1 - len(self._free)

    @property
    def top(self) -> int:
        """The first slot that was never in use; all ends are below."""
        return self._top

    def allocate(self, count: int) -> Slots:
        """Returns slots in state FREE. Those released last come first: their pages are warm."""
        kept = max(0, len(self._free) - count)
        reused, self._free = self._free[kept:], self._free[:kept]
        first, self._top = self._top, self._top + count - len(reused)
        while self._top > len(self.state):
            self._grow()
        return np.concatenate([reused, np.arange(first, self._top)])

    def release(self, slots: Slots) -> None:
        """Give slots back."""
        if self._translated:
            for slot in self._translated.keys() & set(slots.tolist()):
                del self._translated[slot]
        self.state[slots] = FREE
        self.peer[slots] = NOBODY
        self.is_loose[slots] = False
        self._free = np.concatenate([self._free, slots])
        if len(self._free) == self._top - 1:
            self._top, self._free = NOBODY + 1, self._free[:0]

    def adopt(self, rows: Rows) -> Rows:
        """Returns the rows in the layout of the table, which is that of the first batch."""
        if rows.dtype == self.rows.dtype:
            return np.ascontiguousarray(rows)
        if not len(self):
            self.rows = np.zeros(len(self.rows), rows.dtype)
            return np.ascontiguousarray(rows)
        return convert_rows(rows, self.rows.dtype)

    def take_rows(self, slots: Slots) -> Rows:
        """Returns copies of the latest rows."""
        return take_rows(self.rows, slots)

    def open(self, slots: Slots, rows: Rows, now_ns: int) -> None:
        """Start ends in FREE slots with their first rows."""
        put_rows(self.rows, slots, rows)
        self.total[slots] = deltas_of(rows)
        self.out[slots] = 0
        self.state[slots] = OPEN
        self.key[slots] = 0
        self.reported[slots] = self.asked[slots] = False
        self.flow[slots] = rows["id"]
        self.closed_ns[slots] = _closed_ns(rows, now_ns)
        first = np.minimum(rows["start_ns"].astype(np.int64), now_ns)
        self.last_ns[slots] = np.clip(rows["last_ns"].astype(np.int64), first, now_ns)
        self.begun_ns[slots] = self.since_ns[slots] = self.armed_ns[slots] = first

    def update(self, slots: Slots, rows: Rows, now_ns: int) -> None:
        """Add later rows to ends that are known, as the schema says. Slots are distinct.

        ``start_ns`` and ``last_ns`` of the kept row are those of the latest one: ``begun_ns`` and
        ``last_ns`` of the table have the least and the greatest.
        """
        kept = [(names, self._unknown(slots, rows, key)) for key, names in KEPT.items()]
        values = {name: self.rows[name][where] for names, where in kept for name in names}
        united = {name: self.rows[name][slots] for name in _UNITED}
        put_rows(self.rows, slots, rows)
        for names, where in kept:
            for name in names:
                self.rows[name][where] = values[name]
        for name, earlier in united.items():
            self.rows[name][slots] = earlier | rows[name]
        self.total[slots] += deltas_of(rows)
        last = np.minimum(rows["last_ns"].astype(np.int64), now_ns)
        self.last_ns[slots] = np.maximum(self.last_ns[slots], last)
        closed, closing = self.closed_ns[slots], _closed_ns(rows, now_ns)
        # A UDP end lives again when another socket takes over its port.
        closed[(rows["protocol"] == UDP) & (closing == 0)] = 0
        self.closed_ns[slots] = np.where(closed, closed, closing)

    def link(self, a: Slots, b: Slots) -> None:
        """Make ends a[i] and b[i] one entry. Its next record begins where the last one ended."""
        self.peer[a], self.peer[b] = b, a
        a_out, b_out = self.reported[a], self.reported[b]
        earliest = np.minimum(self.since_ns[a], self.since_ns[b])
        latest = np.maximum(self.since_ns[a], self.since_ns[b])
        since = np.where(a_out & b_out, latest, earliest)
        since = np.where(a_out & ~b_out, self.since_ns[a], since)
        since = np.where(b_out & ~a_out, self.since_ns[b], since)
        self.since_ns[a] = self.since_ns[b] = since
        self.begun_ns[a] = self.begun_ns[b] = np.minimum(self.begun_ns[a], self.begun_ns[b])
        self.armed_ns[a] = self.armed_ns[b] = np.maximum(self.armed_ns[a], self.armed_ns[b])
        keeps_b = (b_out & ~a_out) | ((a_out == b_out) & (self.flow[b] < self.flow[a]))
        self.flow[a] = self.flow[b] = np.where(keeps_b, self.flow[b], self.flow[a])

    def revive(self, slots: Slots, since_ns: int) -> None:
        """Open ended entries again. The traffic of their next record came after ``since_ns``."""
        self.state[slots] = OPEN
        since = np.minimum(np.maximum(self.since_ns[slots], since_ns), self.last_ns[slots])
        self.since_ns[slots] = self.armed_ns[slots] = since

    def keep_of_peer(self, slots: Slots) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Leave each end what its peer has counted, too.

        Returns what it had beyond that, and how much of this records have told already.
        """
        peers = self.peer[slots]
        rest = np.maximum(self.total[slots] - self.total[peers][:, ::-1], 0)
        told = self.out[slots] + self.out[peers][:, ::-1]
        self.total[slots] -= rest
        return rest, np.clip(told - self.total[slots], 0, rest)

    def start_again(
        self, slots: Slots, like: Slots, total: NDArray[np.int64], out: NDArray[np.int64]
    ) -> None:
        """Make ends without a peer of these, with the flow_id and the times of ``like``."""
        self.peer[slots] = NOBODY
        self.state[slots] = OPEN
        self.total[slots], self.out[slots] = total, out
        self.reported[slots] = False
        self.flow[slots] = self.flow[like]
        for column in (self.begun_ns, self.since_ns, self.armed_ns):
            column[slots] = column[like]

    def absorb(self, slots: Slots, others: Slots) -> None:
        """Add what ``others`` have counted, and no record has told, to the ends at ``slots``."""
        np.add.at(self.total, slots, self.total[others] - self.out[others])
        np.maximum.at(self.last_ns, slots, self.last_ns[others])

    def translate(self, slots: Slots, words: Words, keys: NDArray[np.uint64]) -> None:
        """Note that NAT changed the Flow Keys: the peers have these ``words``."""
        self.mirror[slots] = keys
        self._translated.update(zip(slots.tolist(), words.T, strict=True))

    def join_words(self, slots: Slots) -> tuple[Words, Words]:
        """Returns the words of each end and of the peer that it would have."""
        own, peers = join_words(self.take_rows(slots))
        if self._translated:
            for at, slot in enumerate(slots.tolist()):
                if slot in self._translated:
                    peers[:, at] = self._translated[slot]
        return own, peers

    def packets(self, slots: Slots) -> NDArray[np.int64]:
        """Returns the packets that each end sent and received: shape (n, 2)."""
        return self.total[slots, :, PACKETS]

    def _unknown(self, slots: Slots, rows: Rows, name: str) -> Slots:
        """Returns the slots whose new row has no value in a column."""
        where: Slots = slots[np.flatnonzero(rows[name] == 0)]
        return where

    def _grow(self) -> None:
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray) and not name.startswith("_"):
                larger = np.zeros((2 * len(column), *column.shape[1:]), column.dtype)
                larger[: len(column)] = column
                setattr(self, name, larger)


def deltas_of(rows: Rows) -> NDArray[np.int64]:
    """Returns what rows have counted: shape (n, lane, counter)."""
    deltas = np.zeros((len(rows), 2, len(COUNTERS)), np.int64)
    for lane, number, name in _LANES:
        deltas[:, lane, number] = rows[name]
    return deltas


def _closed_ns(rows: Rows, now_ns: int) -> NDArray[np.int64]:
    return np.where(rows["mark"] & np.uint8(Mark.CLOSED), max(now_ns, 1), 0)
