"""Turns totals of dumps and of final messages into deltas.

Theory of operation. A dump tells what a socket has counted since it was made. The ledger keeps the
totals that it has reported of each socket; a new row holds the difference.

    not known --first dump--> live --final message--> gone: the rest is counted, the slot is free
                               |                       ^
                        missed in two dumps            | late final message
                               +----> vanished --------+--- or dropped: 16 384 are kept

Each socket has a slot in flat arrays, found by namespace number and cookie. A socket may vanish
without a final message: its last row is made then. Its slot stays, the oldest ones excepted, so
that a late message counts only what is left. A socket that is older than the probe counts
from its first dump on, as its totals so far are no traffic that the probe has seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.flow.codes import Mark
from probe.flow.columns import ROW_DTYPE
from probe.flow.key_index import KeyIndex
from probe.flow.rows import Rows, Slots, concatenate_rows, put_rows, take_rows
from probe.netlink.inet_diag import CLOSE, TCP, Messages, Sockets
from probe.sources.netlink.counters import (
    COUNTED,
    Flags,
    control_bits,
    count_totals,
    find_roles,
    read_times,
)

#: What the ledger keeps of a socket beside its row, in which the counters are totals.
_SEEN = np.dtype(
    [
        ("key", "u8"), ("sent", "u8"), ("received", "u8"), ("segments_out", "i8"),
        ("segments_in", "i8"), ("cgroup", "u8"), ("lost", "u4"), ("tick", "u4"), ("inode", "u4"),
        ("namespace", "u4"),
        ("missed", "u1"), ("is_live", "?"), ("is_reported", "?"),
    ]
)  # fmt: skip
_MISSED_MOST = 2  # dumps; each may skip a socket that moves meanwhile
_MOST_VANISHED = 16384
_U32 = np.int64(2**32)
_UNLIMITED = np.uint64(2**64 - 1)


@dataclass(frozen=True, slots=True)
class Place:
    """The namespace that rows name. is_counted_whole: nothing in it is older than the probe."""

    number: int
    cookie: int
    inode: int
    is_counted_whole: bool


class Ledger:
    """Keeps what was reported of each socket. All times are CLOCK_MONOTONIC.

    rows: the latest row of each slot, with totals.
    """

    def __init__(self, first_id: int) -> None:
        self.rows: Rows = np.zeros(1024, ROW_DTYPE)
        self.seen = np.zeros(1024, _SEEN)
        self.lost_endings = 0
        self._index = KeyIndex()
        self._free: Slots = np.arange(1023, 0, -1)
        self._next_id = first_id
        self._since_ns = 0  # time of the previous dump, after which new sockets began
        self._tick = 0

    def __len__(self) -> int:
        return len(self._index)

    def begin(self) -> None:
        """Begins a new round of dumps."""
        self._tick += 1

    def find_changed(self, messages: Messages) -> NDArray[np.intp]:
        """Returns which messages of a dump have news, and marks the others as seen."""
        slots = self._index.find(messages.keys())
        out, into = messages.segments()
        seen = self.seen
        seen["tick"][slots] = self._tick
        same = (slots > 0) & (seen["segments_out"][slots] % _U32 == out)
        same &= (seen["segments_in"][slots] % _U32 == into) & (seen["missed"][slots] == 0)
        same &= self.rows["tcp_state"][slots] == messages.states()
        return np.flatnonzero(~same)

    def observe(
        self, sockets: Sockets, place: Place, is_listened: Flags, now_ns: int
    ) -> tuple[Rows, Slots]:
        """Returns rows with deltas, and slots, of the sockets of one namespace in a dump.

        A socket that is older than the probe counts from here on and has no row yet.
        """
        sockets, is_listened = _distinct(sockets, is_listened)
        slots = self._index.find(np.ascontiguousarray(sockets["key"]))
        again = np.flatnonzero((slots > 0) & self._is_another(sockets, slots))
        closing = self._close(slots[again])
        new = slots == 0
        slots[new] = self._take_slots(sockets["key"][new])
        fresh = new.copy()
        fresh[again] = True
        self._open(slots[fresh], sockets[fresh], place, is_listened[fresh], now_ns)
        self.seen["tick"][slots] = self._tick
        self.seen["missed"][slots], self.seen["is_live"][slots] = 0, True
        if not place.is_counted_whole:
            older = np.flatnonzero(new)
            self.rows["mark"][slots[older]] |= np.uint8(Mark.PREEXISTING)
            self._count(slots[older], sockets[older], now_ns)
            self.rows["start_ns"][slots[older]] = self.rows["last_ns"][slots[older]] = now_ns
            self.seen["is_reported"][slots[older]] = False
            told = np.flatnonzero(~new)
            sockets, slots = sockets[told], slots[told]
        rows = self._count(slots, sockets, now_ns)
        if not len(again):
            return rows, slots
        return np.concatenate([closing, rows]), np.concatenate([np.zeros_like(again), slots])

    def end(self, sockets: Sockets, place: Place, is_listened: Flags, now_ns: int) -> Rows:
        """Returns last rows, from final messages of one namespace, and forgets their sockets."""
        sockets, is_listened = _distinct(sockets, is_listened)
        slots = self._index.find(np.ascontiguousarray(sockets["key"]))
        brief = np.flatnonzero(slots == 0)
        slots[brief] = self._take_slots(sockets["key"][brief])
        self._open(slots[brief], sockets[brief], place, is_listened[brief], now_ns)
        rows = self._count(slots, sockets, now_ns)
        rows["mark"] |= np.uint8(Mark.CLOSED)
        self._forget(slots)
        return rows

    def knows(self, sockets: Sockets) -> Flags:
        known: Flags = self._index.find(np.ascontiguousarray(sockets["key"])) > 0
        return known

    def finish(self, dumped: list[int], now_ns: int) -> Rows:
        """Ends a round of dumps. Returns last rows of sockets that vanished meanwhile."""
        self._since_ns = now_ns
        seen = self.seen
        absent = np.flatnonzero((seen["tick"] != self._tick) & seen["is_live"])
        absent = absent[np.isin(seen["namespace"][absent], dumped)]
        seen["missed"][absent] += 1
        vanished = absent[seen["missed"][absent] >= _MISSED_MOST]
        self.lost_endings += len(vanished)
        rows = self._close(vanished)
        self._bound_vanished()
        return rows

    def leave(self, number: int) -> Rows:
        """Returns last rows of all sockets of a namespace, and forgets them."""
        slots = np.flatnonzero(self.seen["namespace"] == number)
        rows = self._close(slots[self.seen["is_live"][slots]])
        self._forget(slots)
        return rows

    def renew(self, slots: Slots) -> Rows:
        """Returns rows without traffic, which name the owners of sockets that have had rows."""
        return self._bare_rows(slots[self.seen["is_reported"][slots]])

    def unowned(self, slots: Slots, source: int) -> Slots:
        """Returns slots with an inode whose owner does not come from ``source`` yet."""
        wanting = self.rows["owner_source"][slots] != source
        found: Slots = slots[wanting & (self.seen["inode"][slots] > 0)]
        return found

    def own(self, slots: Slots | int, owner: int, source: int) -> None:
        self.rows["owner"][slots], self.rows["owner_source"][slots] = owner, source

    def owners(self) -> set[int]:
        return set(self.rows["owner"][self.seen["key"] > 0].tolist())

    # -- slots -------------------------------------------------------------------------------------
    def _take_slots(self, keys: NDArray[np.uint64]) -> Slots:
        while len(self._free) < len(keys):
            self._grow()
        kept = len(self._free) - len(keys)
        slots, self._free = self._free[kept:], self._free[:kept]
        return self._index.insert(np.ascontiguousarray(keys), slots)

    def _grow(self) -> None:
        size = len(self.rows)
        self.rows = np.concatenate([self.rows, np.zeros(size, self.rows.dtype)])
        self.seen = np.concatenate([self.seen, np.zeros(size, _SEEN)])
        self._free = np.concatenate([np.arange(2 * size - 1, size - 1, -1), self._free])

    def _forget(self, slots: Slots) -> None:
        self._index.remove(np.ascontiguousarray(self.seen["key"][slots]))
        self.seen[slots] = 0
        self.rows[slots] = np.zeros((), self.rows.dtype)
        self._free = np.concatenate([self._free, slots])

    def _bound_vanished(self) -> None:
        vanished = np.flatnonzero((self.seen["key"] > 0) & ~self.seen["is_live"])
        if len(vanished) > _MOST_VANISHED:
            oldest = np.argsort(self.seen["tick"][vanished])[: len(vanished) - _MOST_VANISHED]
            self._forget(vanished[oldest])

    # -- sockets -----------------------------------------------------------------------------------
    def _is_another(self, sockets: Sockets, slots: Slots) -> Flags:
        """Returns True for sockets that were disconnected and used again, with new counters."""
        seen, rows = self.seen, self.rows
        back = sockets["sent"] < seen["sent"][slots]
        back |= sockets["received"] < seen["received"][slots]
        moved = (sockets["remote_port"] != rows["remote_port"][slots]) & (sockets["state"] != CLOSE)
        another: Flags = back | moved
        return another

    def _open(
        self, slots: Slots, sockets: Sockets, place: Place, is_listened: Flags, now_ns: int
    ) -> None:
        """Fills new slots with the columns that never change, without counters."""
        if not len(slots):
            return
        seen = np.zeros(len(slots), _SEEN)
        seen["key"], seen["namespace"], seen["is_live"] = sockets["key"], place.number, True
        put_rows(self.seen, slots, seen)
        rows: Rows = np.zeros(len(slots), self.rows.dtype)
        rows["id"] = np.arange(self._next_id, self._next_id + len(slots), dtype=np.uint64)
        self._next_id += len(slots)
        rows["cookie"], rows["netns"] = sockets["cookie"], place.cookie
        rows["netns_inode"], rows["protocol"] = place.inode, TCP
        for side in ("local", "remote"):
            rows[f"{side}_address"] = (
                np.ascontiguousarray(sockets[side]).view(np.uint8).reshape(-1, 16)
            )
            rows[f"{side}_port"] = sockets[f"{side}_port"]
        rows["ip_version"], rows["ifindex"] = sockets["ip_version"], sockets["interface"]
        rows["role"] = find_roles(sockets, is_listened)
        rows["mark"] = Mark.BY_TUPLE
        first, _ = read_times(sockets, now_ns)
        rows["start_ns"] = np.clip(first, min(self._since_ns, now_ns), now_ns)
        rows["last_ns"] = rows["start_ns"]
        put_rows(self.rows, slots, rows)

    def _count(self, slots: Slots, sockets: Sockets, now_ns: int) -> Rows:
        """Updates slots, and returns rows with what was counted since the last time."""
        seen, known = take_rows(self.seen, slots), take_rows(self.rows, slots)
        for name in ("segments_out", "segments_in"):  # 32 bits, which wrap in long transfers
            seen[name] += (sockets[name] - seen[name]) % _U32
        for name in ("sent", "received"):
            seen[name] = sockets[name]
        for name in ("inode", "cgroup"):  # final messages have neither
            seen[name] = np.where(sockets[name], sockets[name], seen[name])
        totals = count_totals(sockets, known["role"], seen["segments_out"], seen["segments_in"])
        # tcp_info has the segments that are lost now, so an increase is the least that was lost
        lost = sockets["lost"].astype(np.int64)
        totals["lost"] = known["lost"] + np.maximum(lost - seen["lost"], 0)
        seen["lost"] = lost
        self._describe(known, sockets, now_ns)
        known["mark"] |= totals["mark"]
        rows = concatenate_rows([known])  # a copy
        for name in COUNTED:
            total = np.maximum(totals[name], known[name].astype(np.int64))
            rows[name] = total - known[name].astype(np.int64)
            known[name] = total
        seen["is_reported"] = True
        put_rows(self.seen, slots, seen)
        put_rows(self.rows, slots, known)
        return rows

    def _describe(self, rows: Rows, sockets: Sockets, now_ns: int) -> None:
        """Writes the columns that change and are no counters."""
        _, last = read_times(sockets, now_ns)
        floor = np.maximum(rows["start_ns"], min(self._since_ns, now_ns)).astype(np.int64)
        rows["last_ns"] = np.clip(last, floor, now_ns)
        rows["rtt_us"], rows["rtt_var_us"] = sockets["rtt_us"], sockets["rtt_var_us"]
        rows["tcp_state"] = sockets["state"]
        rows["unacknowledged"] = sockets["unacknowledged"]
        rows["congestion_window"] = sockets["window"]
        rows["delivery_rate"] = sockets["delivery_rate"]
        pace = sockets["pacing_rate"]
        rows["pacing_rate"] = np.where(pace == _UNLIMITED, 0, pace)
        rows["tx_flags"], rows["rx_flags"] = control_bits(sockets, rows["role"])

    def _close(self, slots: Slots) -> Rows:
        """Returns last rows, without traffic, of sockets that had no final message."""
        self.seen["is_live"][slots] = False
        rows = self._bare_rows(slots[self.seen["is_reported"][slots]])
        rows["mark"] |= np.uint8(Mark.CLOSED)
        return rows

    def _bare_rows(self, slots: Slots) -> Rows:
        rows = take_rows(self.rows, slots)
        for name in COUNTED:
            rows[name] = 0
        return rows


def _distinct(sockets: Sockets, is_listened: Flags) -> tuple[Sockets, Flags]:
    """Keeps the latest of two messages, as a dump may show a moving socket twice."""
    order = np.argsort(sockets["key"], kind="stable")
    keys = sockets["key"][order]
    repeated = keys[:-1] == keys[1:]
    if not repeated.any():
        return sockets, is_listened
    kept = order[np.append(~repeated, True)]
    return sockets[kept], is_listened[kept]
