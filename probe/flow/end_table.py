"""The ends of flows: one slot per end in flat arrays that grow on demand.

Slot 0 is nobody: its counters and its row stay zero, so that a gather through the ``peer`` of an
end without one needs no mask.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probe.flow.batch import ROW_COLUMNS, Mark, Rows, row_dtype
from probe.flow.keys import Words, meeting_words

Flags = NDArray[np.bool_]
Slots = NDArray[np.int64]

TCP, UDP = 6, 17
NOBODY = 0
FREE, OPEN, ENDED = 0, 1, 2

#: Lanes of an end: what it sent and what it received.
TX, RX = 0, 1
#: Columns of a lane. Only the sender knows the last two; they stay 0 in the RX lane.
OCTETS, PACKETS, RETRANSMITTED, LOST = range(4)

_FIRST_CAPACITY = 1024
#: What a later row of the same end may not know any more, so the last known value is kept.
_KEPT = ("owner", "ifindex", "role", "isn_local", "isn_remote")
_UNITED = ("tx_flags", "rx_flags", "mark")


class EndTable:
    """Columns per slot: ``total`` and ``out`` are (capacity, lane, column) sums: seen, exported.

    ``since_ns``, ``begun_ns``, ``armed_ns`` and ``flow`` belong to the entry and are valid at both
    of its ends.
    """

    def __init__(self) -> None:
        self.rows: Rows = np.zeros(_FIRST_CAPACITY, row_dtype())  # latest row of each end
        self.total = np.zeros((_FIRST_CAPACITY, 2, 4), np.int64)
        self.out = np.zeros((_FIRST_CAPACITY, 2, 4), np.int64)
        self.state = np.zeros(_FIRST_CAPACITY, np.uint8)
        self.peer = np.zeros(_FIRST_CAPACITY, np.int32)
        self.flow = np.zeros(_FIRST_CAPACITY, np.uint64)
        self.last_ns = np.zeros(_FIRST_CAPACITY, np.int64)  # latest packet
        self.begun_ns = np.zeros(_FIRST_CAPACITY, np.int64)  # the first that was known of the end
        self.since_ns = np.zeros(_FIRST_CAPACITY, np.int64)  # where the next record begins
        self.armed_ns = np.zeros(_FIRST_CAPACITY, np.int64)  # the active timeout counts from here
        self.closed_ns = np.zeros(_FIRST_CAPACITY, np.int64)  # 0 while the socket lives
        self.ended_ns = np.zeros(_FIRST_CAPACITY, np.int64)
        self.key = np.zeros(_FIRST_CAPACITY, np.uint64)  # in the meeting place; 0: not entered
        self.group = np.zeros(_FIRST_CAPACITY, np.int64)  # there
        self.mirror = np.zeros(_FIRST_CAPACITY, np.uint64)  # the key of a peer
        self.is_loose = np.zeros(_FIRST_CAPACITY, bool)
        self.reported = np.zeros(_FIRST_CAPACITY, bool)  # a record of the entry has left
        self.asked = np.zeros(_FIRST_CAPACITY, bool)  # what NAT made of its key was looked up
        self._translated: dict[int, NDArray[np.uint64]] = {}  # slot -> words of its peer
        self.scratch = np.zeros(_FIRST_CAPACITY, np.int32)
        self._top = NOBODY + 1
        self._free: Slots = np.zeros(0, np.int64)

    def __len__(self) -> int:
        """Slots in use."""
        return self._top - 1 - len(self._free)

    @property
    def top(self) -> int:
        """All slots in use are below."""
        return self._top

    def allocate(self, count: int) -> Slots:
        """Slots in state FREE; recently released ones first, their pages are warm."""
        kept = max(0, len(self._free) - count)
        reused, self._free = self._free[kept:], self._free[:kept]
        first, self._top = self._top, self._top + count - len(reused)
        while self._top > len(self.state):
            self._grow()
        return np.concatenate([reused, np.arange(first, self._top)])

    def release(self, slots: Slots) -> None:
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
        """The rows in the layout of the table, which is that of the first batch."""
        if rows.dtype == self.rows.dtype:
            return np.ascontiguousarray(rows)
        if not len(self):
            self.rows = np.zeros(len(self.rows), rows.dtype)
            return np.ascontiguousarray(rows)
        converted: Rows = np.zeros(len(rows), self.rows.dtype)
        for name in ROW_COLUMNS:
            converted[name] = rows[name]
        return converted

    def take_rows(self, slots: Slots) -> Rows:
        """Copies of the latest rows."""
        return take_rows(self.rows, slots)

    def open(self, slots: Slots, rows: Rows, now_ns: int) -> None:
        """Start ends in FREE slots with their first rows."""
        self._opaque()[slots] = _opaque(rows)
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
        """Add later rows to ends that are known; slots are distinct."""
        kept = {name: self._forgotten(slots, rows, name) for name in _KEPT}
        source = self.rows["owner_source"][kept["owner"][0]]
        united = {name: self.rows[name][slots] for name in _UNITED}
        self._opaque()[slots] = _opaque(rows)
        for name, (where, values) in kept.items():
            self.rows[name][where] = values
        self.rows["owner_source"][kept["owner"][0]] = source
        for name, values in united.items():
            self.rows[name][slots] = values | rows[name]
        self.total[slots] += deltas_of(rows)
        last = np.minimum(rows["last_ns"].astype(np.int64), now_ns)
        self.last_ns[slots] = np.maximum(self.last_ns[slots], last)
        closed, closing = self.closed_ns[slots], _closed_ns(rows, now_ns)
        # a UDP end lives again when another socket takes over its port
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
        """Open ended entries again; what comes now came after ``since_ns``."""
        self.state[slots] = OPEN
        since = np.minimum(np.maximum(self.since_ns[slots], since_ns), self.last_ns[slots])
        self.since_ns[slots] = self.armed_ns[slots] = since

    def keep_of_peer(self, slots: Slots) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Leave each end what its peer accounts for; the rest, and what of it has been exported."""
        peers = self.peer[slots]
        rest = np.maximum(self.total[slots] - self.total[peers][:, ::-1], 0)
        told = self.out[slots] + self.out[peers][:, ::-1]
        self.total[slots] -= rest
        return rest, np.clip(told - self.total[slots], 0, rest)

    def start_again(
        self, slots: Slots, like: Slots, total: NDArray[np.int64], out: NDArray[np.int64]
    ) -> None:
        """Without a peer, as another flow, which began with the ends ``like``."""
        self.peer[slots] = NOBODY
        self.state[slots] = OPEN
        self.total[slots], self.out[slots] = total, out
        self.reported[slots] = False
        self.flow[slots] = self.flow[like]
        for column in (self.begun_ns, self.since_ns, self.armed_ns):
            column[slots] = column[like]

    def absorb(self, slots: Slots, others: Slots) -> None:
        """Add what ``others`` have counted and not exported to the ends at ``slots``."""
        np.add.at(self.total, slots, self.total[others] - self.out[others])
        np.maximum.at(self.last_ns, slots, self.last_ns[others])

    def translate(self, slots: Slots, words: Words, keys: NDArray[np.uint64]) -> None:
        """The peer's Flow Key is not the reverse of the end's own, but these ``words``."""
        self.mirror[slots] = keys
        self._translated.update(zip(slots.tolist(), words.T, strict=True))

    def meeting_words(self, slots: Slots) -> tuple[Words, Words]:
        """Of each end its own, and what its peer has."""
        own, peers = meeting_words(self.take_rows(slots))
        if self._translated:
            for at, slot in enumerate(slots.tolist()):
                if slot in self._translated:
                    peers[:, at] = self._translated[slot]
        return own, peers

    def packets(self, slots: Slots) -> NDArray[np.int64]:
        """Packets seen by each end, sent and received: shape (n, 2)."""
        return self.total[slots, :, PACKETS]

    def _forgotten(self, slots: Slots, rows: Rows, name: str) -> tuple[Slots, NDArray[np.generic]]:
        """Slots whose new row has no value in a column, and the value they had."""
        where = slots[np.flatnonzero(rows[name] == 0)]
        return where, self.rows[name][where]

    def _opaque(self) -> Rows:
        return _opaque(self.rows)

    def _grow(self) -> None:
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray) and not name.startswith("_"):
                larger = np.zeros((2 * len(column), *column.shape[1:]), column.dtype)
                larger[: len(column)] = column
                setattr(self, name, larger)


def take_rows(rows: Rows, where: Slots) -> Rows:
    """Copies of some rows, gathered as opaque octets: numpy copies structures field by field."""
    return _opaque(rows).take(where).view(rows.dtype)


def put_rows(rows: Rows, where: Slots, values: Rows) -> None:
    """``rows[where] = values``, of one dtype, in the same way."""
    _opaque(rows)[where] = _opaque(values)


def concatenate_rows(parts: list[Rows]) -> Rows:
    """At least one part; all of one dtype."""
    return np.concatenate([_opaque(part) for part in parts]).view(parts[0].dtype)


def _opaque(rows: Rows) -> Rows:
    return rows.view(f"V{rows.dtype.itemsize}")


def deltas_of(rows: Rows) -> NDArray[np.int64]:
    """(n, lane, column), as the table sums them."""
    deltas = np.zeros((len(rows), 2, 4), np.int64)
    deltas[:, TX, OCTETS], deltas[:, RX, OCTETS] = rows["tx_octets"], rows["rx_octets"]
    deltas[:, TX, PACKETS], deltas[:, RX, PACKETS] = rows["tx_packets"], rows["rx_packets"]
    deltas[:, TX, RETRANSMITTED], deltas[:, TX, LOST] = rows["retransmitted"], rows["lost"]
    return deltas


def _closed_ns(rows: Rows, now_ns: int) -> NDArray[np.int64]:
    return np.where(rows["mark"] & np.uint8(Mark.CLOSED), max(now_ns, 1), 0)
