"""The Metering Process: rows of flow ends go in, Flow Records come out (RFC 7011, section 2).

One entry per connection with one or two local ends. No clock and no I/O: every method is told
the time. Arrays only: a call works on all rows of a batch, or on all entries, at once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from probe.flow.ambiguous_ends import pair_ambiguous
from probe.flow.batch import FlowBatch
from probe.flow.codes import TCP, UDP, EndReason
from probe.flow.columns import RECORD_DTYPE
from probe.flow.end_table import ENDED, FREE, NOBODY, OPEN, EndTable
from probe.flow.group_copies import drop_copies
from probe.flow.join import (
    are_plausible,
    distinct_pairs,
    find_peers,
    is_loose,
    join_keys,
    meets_by_tuple,
)
from probe.flow.key_index import KeyIndex, distinct
from probe.flow.keys import (
    Words,
    are_equal,
    end_ids,
    end_words,
    hash_words,
    join_words,
    next_ids,
)
from probe.flow.merge_rows import merge_rows
from probe.flow.owner_change import build_part_records, find_parts
from probe.flow.peer_change import find_peer_changes
from probe.flow.record import build_records
from probe.flow.rows import Flags, Rows, Slots, concatenate_rows, take_rows
from probe.flow.short_connections import build_short_records, match_ends
from probe.flow.waiting_ends import WaitingEnds

SECOND_NS = 1_000_000_000
#: What NAT made of the keys of some ends, given their latest rows and packets: which of them were
#: asked about, which have a peer with other addresses, and what that peer's row says of them.
FindPeers = Callable[[Rows, NDArray[np.int64]], tuple[Slots, Slots, Rows]]
#: Entries per step of an export, so that what it gathers stays in the processor's cache.
_BLOCK = 2048
#: So many ends of one Flow Key may follow each other in a read.
_SUCCESSIONS = 16


class FlowCache:
    """All times are CLOCK_MONOTONIC nanoseconds; records get Unix time by ``wall_offset_ns``.

    ``join_wait_ns``: how long a closed end waits for its peer. ``linger_ns``: how long an ended
    entry is remembered, so that a late peer yields no second record. ``host_netns``: cookie of
    the namespace whose interface indices are exported, 0 for none.
    """

    def __init__(
        self,
        max_entries: int = 131072,
        active_timeout_ns: int = 60 * SECOND_NS,
        idle_timeout_ns: int = 15 * SECOND_NS,
        join_wait_ns: int = SECOND_NS,
        linger_ns: int = 3 * SECOND_NS,
        host_netns: int = 0,
    ) -> None:
        self._max_entries = max_entries
        self._active_timeout_ns = active_timeout_ns
        self._idle_timeout_ns = idle_timeout_ns
        self._join_wait_ns = join_wait_ns
        self._linger_ns = linger_ns
        self._host_netns = host_netns
        self._table = EndTable()
        self._ids = KeyIndex()
        self._waiting = WaitingEnds()
        self._ready: list[Rows] = []  # records that are due, times as in their rows
        self._observed_ns = 0
        self.observed_flows = 0
        self.evicted = 0
        #: Packets of ends that came when their flow had ended, and which of these nobody told.
        self.late_packets = self.lost_packets = 0

    @property
    def entries(self) -> int:
        """Live entries; a joined connection is one, ended entries that linger are none."""
        return len(self._leaders())

    def owners_in_use(self) -> NDArray[np.int64]:
        """OwnerTable indices that a later record may name; those of past records are not kept."""
        table = self._table
        live = np.flatnonzero(table.state[: table.top] == OPEN)
        named = [table.rows["owner"][live].astype(np.int64)]
        for records in self._ready:
            named += [records["source_owner"], records["destination_owner"]]
        owners: NDArray[np.int64] = distinct(np.concatenate(named))
        return owners

    def knows(self, rows: Rows) -> Flags:
        """Which rows are of ends that are here, or that ended a moment ago."""
        ids = rows["id"].copy()
        udp = np.flatnonzero(rows["protocol"] == UDP)
        words = end_words(take_rows(np.ascontiguousarray(rows), udp))
        ids[udp] = end_ids(words)
        slots = self._ids.find(ids)
        found = udp[slots[udp] != NOBODY]
        while len(found):
            of_others = ~are_equal(
                words[:, np.searchsorted(udp, found)], self._keys_of(slots[found])
            )
            found = found[of_others]
            ids[found] = next_ids(ids[found])
            slots[found] = self._ids.find(ids[found])
            found = found[slots[found] != NOBODY]
        known: Flags = slots != NOBODY
        return known

    def observe(self, batch: FlowBatch, now_ns: int) -> None:
        """Add one read's deltas. An id may occur in any number of rows."""
        if not len(batch):
            return
        rows = self._table.adopt(batch.rows)
        a, b = match_ends(rows, self._idle_timeout_ns)
        if len(a):
            lasting = np.ones(len(rows), bool)
            lasting[a] = lasting[b] = False
            self._observe(take_rows(rows, np.flatnonzero(lasting)), now_ns)
            self._observe_pairs(rows, a, b, now_ns)
        else:
            self._observe(rows, now_ns)
        self._observed_ns = now_ns

    def join_translated(self, find: FindPeers, now_ns: int) -> None:
        """Join ends that NAT made different tuples of. ``find`` is asked once for each new end.

        The ends are of UDP (or of TCP without sequence numbers) and have found no peer by their own
        tuple. Where ``find`` had no time for an end it is asked again.
        """
        table, top = self._table, self._table.top
        waits = (table.state[:top] == OPEN) & (table.peer[:top] == NOBODY) & ~table.asked[:top]
        waits &= table.key[:top] != 0
        ends = np.flatnonzero(waits)
        by_tuple = meets_by_tuple(table.rows["protocol"][ends], table.rows["mark"][ends])
        table.asked[ends[~by_tuple]] = True  # nothing to ask
        ends = ends[by_tuple]
        if not len(ends):
            return
        asked, found, peers = find(table.take_rows(ends), table.packets(ends).sum(axis=1))
        table.asked[ends[asked]] = True
        alone = self._unite_halves(ends[found], peers)
        if len(alone):
            slots = ends[found][alone]
            words, _ = join_words(take_rows(peers, alone))
            table.translate(slots, words, hash_words(words))
            self._join_seekers(slots, now_ns)

    def _unite_halves(self, slots: Slots, peers: Rows) -> Slots:
        """Which of the translated ends at ``slots``, with these ``peers``, are ends of their own.

        Where a host translates what its own socket sends, UDP is metered behind the translation on
        the way out and before it on the way in. So the socket has two ends, one for each direction.
        What the half at a slot has counted goes to the other, and the half is forgotten.
        """
        if not len(slots):
            return slots
        outside = self._table.take_rows(slots)
        for here, there in (("local", "remote"), ("remote", "local")):
            outside[f"{here}_address"] = peers[f"{there}_address"]
            outside[f"{here}_port"] = peers[f"{there}_port"]
        words = end_words(outside)
        others = self._ids.find(end_ids(words))
        is_half = (others != NOBODY) & (others != slots) & are_equal(words, self._keys_of(others))
        is_half &= self._table.state[others] == OPEN
        halves = np.flatnonzero(is_half)
        if len(halves):
            self._table.absorb(others[halves], slots[halves])
            self._remove(slots[halves])
            self.observed_flows -= len(halves)
        return np.flatnonzero(~is_half)

    def _observe_pairs(self, rows: Rows, a: Slots, b: Slots, now_ns: int) -> None:
        """Closed connections: brief ones become records, others are known to the table."""
        ids = rows["id"]
        known = (self._ids.find(ids[a]) != NOBODY) | (self._ids.find(ids[b]) != NOBODY)
        if known.any():
            self._observe(take_rows(rows, np.concatenate([a[known], b[known]])), now_ns)
            a, b = a[~known], b[~known]
        self.observed_flows += len(a)
        for start in range(0, len(a), _BLOCK):
            ends, others = (side[start : start + _BLOCK] for side in (a, b))
            self._ready.append(build_short_records(rows, ends, others, now_ns, self._host_netns))

    def _observe(self, rows: Rows, now_ns: int) -> None:
        if not len(rows):
            return
        udp = np.flatnonzero(rows["protocol"] == UDP)
        if len(udp):
            rows = concatenate_rows([rows])  # a copy: ids are set in it
            slots = self._locate_by_key(rows, udp)
            rows, slots = drop_copies(self._table, rows, slots)
        else:
            slots = self._locate(rows["id"])
        parts = find_parts(self._table, rows, slots) if len(udp) else None
        rows, slots = merge_rows(rows, slots, self._table.scratch)
        is_new = self._table.state[slots] == FREE
        new, known = np.flatnonzero(is_new), np.flatnonzero(~is_new)
        self._open(slots[new], take_rows(rows, new), now_ns)
        self._update(slots[known], take_rows(rows, known), now_ns)
        self._join(slots, now_ns)
        if parts:
            self._ready.append(build_part_records(self._table, parts, now_ns, self._host_netns))
        self._succeed(slots, now_ns)

    def expire(self, now_ns: int, wall_offset_ns: int) -> Rows:
        """Records (RECORD_DTYPE) that are due by timeout, end of flow or lack of room."""
        self._forget_ended(now_ns)
        leaders = self._leaders()
        reasons = self._due_reasons(leaders, now_ns)
        if self._waiting.has_ambiguous() and self._join_due(leaders[reasons != 0], now_ns):
            leaders = self._leaders()
            reasons = self._due_reasons(leaders, now_ns)
        self._evict(leaders, reasons)
        due = np.flatnonzero(reasons)
        lasting = self._export(leaders[due], reasons[due], now_ns, wall_offset_ns)
        return self._with_ready(lasting, wall_offset_ns)

    def flush(self, now_ns: int, wall_offset_ns: int) -> Rows:
        """Records of all that is left, with the reason FORCED_END unless it has ended by itself.

        The cache is empty then.
        """
        if self._waiting.has_ambiguous():
            self._join_due(self._leaders(), now_ns)
        leaders = self._leaders()
        reasons = np.full(len(leaders), EndReason.FORCED_END, np.uint8)
        records = self._export(leaders, reasons, now_ns, wall_offset_ns)
        self._remove(np.flatnonzero(self._table.state[: self._table.top] != FREE))
        return self._with_ready(records, wall_offset_ns)

    def take_ready(self, wall_offset_ns: int) -> list[Rows]:
        """Records that are due as soon as they were observed, by blocks: of brief connections, and
        of former owners of UDP flows."""
        blocks, self._ready = self._ready, []
        for records in blocks:
            records["first_ns"] += wall_offset_ns
            records["last_ns"] += wall_offset_ns
            records["begun_ns"] += wall_offset_ns
        return blocks

    def _with_ready(self, records: Rows, wall_offset_ns: int) -> Rows:
        """``records`` behind those that nobody has taken."""
        blocks = self.take_ready(wall_offset_ns)
        return concatenate_rows([*blocks, records]) if blocks else records

    def _locate(self, ids: NDArray[np.uint64]) -> Slots:
        """The slot of each id; of an unknown one a slot in state FREE."""
        ids = np.ascontiguousarray(ids)
        slots = self._ids.find(ids)
        unknown = np.flatnonzero(slots == NOBODY)
        if len(unknown):
            offered = self._table.allocate(len(unknown))
            given = self._ids.insert(ids[unknown], offered)
            self._table.release(offered[given != offered])
            slots[unknown] = given
        return slots

    def _locate_by_key(self, rows: Rows, udp: Slots) -> Slots:
        """As ``_locate``; rows of UDP get an id that is made of their Flow Key.

        A socket that takes over the port of one that has just closed goes on with the same flow, as
        the peer (which sees no difference) does too.
        """
        words = end_words(take_rows(rows, udp))
        ids = end_ids(words)
        rows["id"][udp] = ids
        slots = self._locate(rows["id"])
        while len(others := self._find_other_keys(slots[udp], words)):
            ids[others] = next_ids(ids[others])
            rows["id"][udp[others]] = ids[others]
            slots[udp[others]] = self._locate(ids[others])
        return slots

    def _find_other_keys(self, slots: Slots, words: Words) -> Slots:
        """Which ends have a slot that belongs to an end with another Flow Key."""
        table = self._table
        holders = np.empty_like(words)
        new = np.flatnonzero(table.state[slots] == FREE)
        table.scratch[slots[new]] = new  # of several with one new slot, the last one holds it
        holders[:, new] = words[:, table.scratch[slots[new]]]
        known = np.flatnonzero(table.state[slots] != FREE)
        holders[:, known] = self._keys_of(slots[known])
        return np.flatnonzero(~are_equal(words, holders))

    def _keys_of(self, slots: Slots) -> Words:
        return end_words(self._table.take_rows(slots))

    def _open(self, slots: Slots, rows: Rows, now_ns: int) -> None:
        if not len(slots):
            return
        table = self._table
        table.open(slots, rows, now_ns)
        self.observed_flows += len(slots)
        # A socket as old as this, seen only now, is back from an idle timeout or an eviction: its
        # earlier packets are in earlier records. These came after the previous read.
        resumed = slots[table.last_ns[slots] - table.since_ns[slots] > self._idle_timeout_ns]
        if self._observed_ns and len(resumed):
            since = np.minimum(
                np.maximum(table.since_ns[resumed], self._observed_ns), table.last_ns[resumed]
            )
            table.since_ns[resumed] = table.armed_ns[resumed] = since

    def _update(self, slots: Slots, rows: Rows, now_ns: int) -> None:
        if not len(slots):
            return
        table = self._table
        table.update(slots, rows, now_ns)
        ended = table.state[slots] == ENDED
        self._revive(slots[ended & (rows["protocol"] == UDP)])
        late = np.flatnonzero(ended & (rows["protocol"] == TCP))
        if len(late):
            sent, received = (rows[name][late] for name in ("tx_packets", "rx_packets"))
            self.late_packets += int(sent.sum()) + int(received.sum())
            # What it received the peer has told, if there is one here.
            alone = table.peer[slots[late]] == NOBODY
            self.lost_packets += int(sent.sum()) + int(received[alone].sum())
            table.ended_ns[slots[late]] = now_ns

    def _revive(self, slots: Slots) -> None:
        """A UDP flow whose socket had closed goes on: its port was taken over, or it was late."""
        if not len(slots):
            return
        ends = distinct(self._with_peers(slots))
        self._table.revive(ends, self._observed_ns)
        peers = self._table.peer[ends]
        self.observed_flows += int(np.count_nonzero((peers == NOBODY) | (ends < peers)))

    def _join(self, slots: Slots, now_ns: int) -> None:
        """Enter ends whose key is known since this batch, and join those that meet."""
        table = self._table
        lonely = slots[(table.peer[slots] == NOBODY) & (table.state[slots] == OPEN)]
        nameless = lonely[table.key[lonely] == 0]
        # Sequence numbers never change, so the later of two ends finds the earlier when it enters.
        # Ends by 5-tuple try again: their traffic may become plausible, or a crowd disperse.
        protocol, mark = table.rows["protocol"][lonely], table.rows["mark"][lonely]
        again = lonely[(table.key[lonely] != 0) & meets_by_tuple(protocol, mark)]
        seekers = np.concatenate([self._enter(nameless), again])
        if len(seekers):
            self._join_seekers(seekers, now_ns)

    def _join_seekers(self, seekers: Slots, now_ns: int) -> None:
        table = self._table
        peers = find_peers(self._waiting, table, seekers)
        met = np.flatnonzero((peers != NOBODY) & (table.peer[peers] == NOBODY))
        a, b = distinct_pairs(seekers[met], peers[met], table.scratch)
        plausible = are_plausible(table, a, b)
        self._link(a[plausible], b[plausible], now_ns)
        self._link(
            *pair_ambiguous(self._waiting, table, seekers[table.peer[seekers] == NOBODY]), now_ns
        )

    def _join_due(self, due: Slots, now_ns: int) -> bool:
        """Of crowds, those whose records are about to leave; whether any were joined."""
        table = self._table
        lonely = due[(table.peer[due] == NOBODY) & (table.key[due] != 0)]
        a, b = pair_ambiguous(self._waiting, table, lonely, is_last_chance=True)
        self._link(a, b, now_ns)
        return self._succeed(lonely, now_ns) or len(a) > 0

    def _link(self, a: Slots, b: Slots, now_ns: int) -> None:
        if not len(a):
            return
        table = self._table
        table.link(a, b)
        self._leave(np.concatenate([a, b]))
        self.observed_flows -= len(a)
        self._bury_late(a, b, now_ns)

    def _succeed(self, slots: Slots, now_ns: int) -> bool:
        """Join ends that lost their peer with its successors; whether there were any."""
        table, found = self._table, False
        for _ in range(_SUCCESSIONS):
            ends, successors = find_peer_changes(table, slots)
            if not len(ends):
                break
            found = True
            closed = table.peer[ends].astype(np.int64)
            # one that had ended was counted again when the end went on
            has_ended = table.ended_ns[closed] >= table.begun_ns[closed]
            self.observed_flows += int(np.count_nonzero(~has_ended))
            rest = table.keep_of_peer(ends)
            reasons = np.full(len(closed), EndReason.END_OF_FLOW, np.uint8)
            self._ready.append(build_records(table, closed, reasons, now_ns, 0, self._host_netns))
            self._remove(closed)
            table.start_again(ends, successors, *rest)
            self._link(ends, successors, now_ns)
            slots = slots[table.state[slots] != FREE]
        return found

    def _enter(self, slots: Slots) -> Slots:
        table = self._table
        rows = table.take_rows(slots)
        keys, mirrors = join_keys(rows)
        known = np.flatnonzero(keys)
        entered = slots[known]
        table.key[entered], table.mirror[entered] = keys[known], mirrors[known]
        table.group[entered] = self._waiting.enter(keys[known], entered)
        table.is_loose[entered] = is_loose(rows)[known]
        return entered

    def _leave(self, slots: Slots) -> None:
        """Out of the meeting place, of those that are there."""
        table = self._table
        entered = slots[table.key[slots] != 0]
        self._waiting.leave(table.key[entered], table.group[entered], entered)
        table.key[entered] = 0

    def _bury_late(self, a: Slots, b: Slots, now_ns: int) -> None:
        """An end that meets an ended one is late: its packets are in the records of the other."""
        state = self._table.state
        one_ended = (state[a] == ENDED) != (state[b] == ENDED)
        late = np.where(state[a] == ENDED, b, a)[one_ended]
        self.late_packets += int(self._table.packets(late).sum())
        state[late] = ENDED
        self._table.ended_ns[a[one_ended]] = self._table.ended_ns[b[one_ended]] = now_ns

    def _leaders(self) -> Slots:
        """One end of each live entry."""
        table, top = self._table, self._table.top
        peer = table.peer[:top]
        first = (peer == NOBODY) | (np.arange(top) < peer)
        return np.flatnonzero((table.state[:top] == OPEN) & first)

    def _due_reasons(self, leaders: Slots, now_ns: int) -> NDArray[np.uint8]:
        table = self._table
        peers = table.peer[leaders]
        closed, peer_closed = table.closed_ns[leaders], table.closed_ns[peers]
        both = (closed > 0) & (peer_closed > 0)
        first_close = np.where(both, np.minimum(closed, peer_closed), closed + peer_closed)
        waited = now_ns - first_close >= self._join_wait_ns
        last = np.maximum(table.last_ns[leaders], table.last_ns[peers])
        reasons = np.zeros(len(leaders), np.uint8)
        reasons[now_ns - table.armed_ns[leaders] >= self._active_timeout_ns] = (
            EndReason.ACTIVE_TIMEOUT
        )
        reasons[now_ns - last >= self._idle_timeout_ns] = EndReason.IDLE_TIMEOUT
        reasons[first_close > 0] = 0  # a closing flow has one last record, at its end
        reasons[both | ((first_close > 0) & waited)] = EndReason.END_OF_FLOW
        return reasons

    def _evict(self, leaders: Slots, reasons: NDArray[np.uint8]) -> None:
        """Over the bound the least recently active entries leave."""
        staying = np.flatnonzero((reasons == 0) | (reasons == EndReason.ACTIVE_TIMEOUT))
        excess = len(staying) - self._max_entries
        if excess <= 0:
            return
        ends = leaders[staying]
        last = np.maximum(self._table.last_ns[ends], self._table.last_ns[self._table.peer[ends]])
        oldest = staying[np.argpartition(last, excess - 1)[:excess]]
        reasons[oldest] = EndReason.LACK_OF_RESOURCES
        self.evicted += excess

    def _export(
        self, leaders: Slots, reasons: NDArray[np.uint8], now_ns: int, wall_offset_ns: int
    ) -> Rows:
        if not len(leaders):
            return np.zeros(0, RECORD_DTYPE)
        blocks = [
            build_records(
                self._table,
                leaders[start : start + _BLOCK],
                reasons[start : start + _BLOCK],
                now_ns,
                wall_offset_ns,
                self._host_netns,
            )
            for start in range(0, len(leaders), _BLOCK)
        ]
        records = concatenate_rows(blocks)
        self._end(leaders[reasons == EndReason.END_OF_FLOW], now_ns)
        leaving = (reasons != EndReason.END_OF_FLOW) & (reasons != EndReason.ACTIVE_TIMEOUT)
        self._remove(self._with_peers(leaders[leaving]))
        return records

    def _end(self, leaders: Slots, now_ns: int) -> None:
        """Of entries whose two sockets are gone nothing can come any more; others linger."""
        table = self._table
        peers = table.peer[leaders]
        gone = (peers != NOBODY) & (table.closed_ns[leaders] > 0) & (table.closed_ns[peers] > 0)
        self._remove(self._with_peers(leaders[gone]))
        lingering = self._with_peers(leaders[~gone])
        table.state[lingering] = ENDED
        table.ended_ns[lingering] = now_ns

    def _forget_ended(self, now_ns: int) -> None:
        """Drop what lingered. A TCP end that still lives is remembered until it closes too."""
        table = self._table
        ended = np.flatnonzero(table.state[: table.top] == ENDED)
        peers = table.peer[ended]
        is_live = (table.closed_ns[ended] == 0) | ((peers > 0) & (table.closed_ns[peers] == 0))
        held = is_live & (table.rows["protocol"][ended] == TCP)
        over = (now_ns - table.ended_ns[ended] >= self._linger_ns) & ~held
        excess = len(ended) - int(np.count_nonzero(over)) - self._max_entries
        if excess > 0:  # a close that was lost in the kernel must not be remembered forever
            oldest = np.argsort(np.where(over, np.iinfo(np.int64).max, table.ended_ns[ended]))
            over[oldest[:excess]] = True
        self._remove(distinct(np.concatenate([ended[over], table.peer[ended[over]]])))

    def _with_peers(self, leaders: Slots) -> Slots:
        peers = self._table.peer[leaders].astype(np.int64)
        return np.concatenate([leaders, peers[peers != NOBODY]])

    def _remove(self, slots: Slots) -> None:
        """Free slots; both of a joined entry at once."""
        slots = slots[slots != NOBODY]
        if not len(slots):
            return
        table = self._table
        self._leave(slots)
        self._ids.remove(np.ascontiguousarray(table.rows["id"][slots]))
        table.release(slots)
