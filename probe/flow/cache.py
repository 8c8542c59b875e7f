"""The Metering Process: rows of ends go in, Flow Records come out (RFC 7011, section 2).

Theory of operation. The table has a slot for each end; two ends with each other as peer are one
*entry*, and its *leader* is the end with the lower slot. The cache has no clock and does no I/O:
every method is told the time. Each call works on arrays of all rows or of all entries. ::

    observe   rows --> short connections ----------------------------------> records, at once
                   --> find slots --> merge rows --> open or update ends
                                                          |
                                                     join ends (or wait for the peer)
    expire    entries that are due --> records --> active timeout: the entry goes on
                                               --> idle timeout, eviction: its slots are free
                                               --> end of flow: free if both ends closed,
                                                   else ENDED, so that a late peer is known

- ``slot_finder`` says which slot an end has, ``merge_rows`` what several rows of it say.
- ``join`` says who is whose peer, ``ambiguous_ends`` where several ends have one key.
- ``owner_change`` and ``peer_change`` are about UDP ends that go on with another owner or peer.
- ``timeouts`` says which entries are due, and ``record`` what records tell of them.
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
from probe.flow.key_index import distinct
from probe.flow.keys import end_words, hash_words, join_words
from probe.flow.merge_rows import merge_rows
from probe.flow.owner_change import build_part_records, find_parts
from probe.flow.peer_change import find_peer_changes
from probe.flow.record import build_records
from probe.flow.rows import Flags, Rows, Slots, concatenate_rows, take_rows
from probe.flow.short_connections import build_short_records, match_ends
from probe.flow.slot_finder import SlotFinder
from probe.flow.timeouts import Timeouts, evict
from probe.flow.waiting_ends import WaitingEnds

SECOND_NS = 1_000_000_000
#: Finds what NAT made of the keys of some ends. It is given their latest rows and packets. It
#: returns which of them it looked up, which have a peer with other addresses, and the peers' rows.
FindPeers = Callable[[Rows, NDArray[np.int64]], tuple[Slots, Slots, Rows]]
#: Entries per step of an export. What a step gathers stays in the processor's cache.
_BLOCK = 2048
#: So many peers of one end may follow each other in a read.
_PEER_CHANGES = 16


class FlowCache:
    """All times are CLOCK_MONOTONIC nanoseconds; records get Unix time by ``wall_offset_ns``.

    Timeouts are those of ``Timeouts``. ``host_netns``: the cookie of the namespace whose interface
    indices are exported, 0 for none.
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
        self._timeouts = Timeouts(active_timeout_ns, idle_timeout_ns, join_wait_ns, linger_ns)
        self._host_netns = host_netns
        self._table = EndTable()
        self._finder = SlotFinder(self._table)
        self._waiting = WaitingEnds()
        self._ready: list[Rows] = []  # records that are due already; their times are monotonic
        self._observed_ns = 0
        self.observed_flows = 0
        self.evicted = 0
        #: Packets that came when their flow had ended, and those of them that no record has told.
        self.late_packets = self.lost_packets = 0

    @property
    def entries(self) -> int:
        """How many entries live. A joined connection is one; ended entries are not counted."""
        return len(self._leaders())

    def owners_in_use(self) -> NDArray[np.int64]:
        """Returns the OwnerTable indices that later records may name."""
        table = self._table
        live = np.flatnonzero(table.state[: table.top] == OPEN)
        named = [table.rows["owner"][live].astype(np.int64)]
        for records in self._ready:
            named += [records["source_owner"], records["destination_owner"]]
        owners: NDArray[np.int64] = distinct(np.concatenate(named))
        return owners

    def knows(self, rows: Rows) -> Flags:
        """Returns which rows are of ends that are here, or that ended a moment ago."""
        known: Flags = self._finder.find(rows) != NOBODY
        return known

    def observe(self, batch: FlowBatch, now_ns: int) -> None:
        """Add what one read has counted. Any number of rows may be of one end."""
        if not len(batch):
            return
        rows = self._table.adopt(batch.rows)
        a, b = match_ends(rows, self._timeouts.idle)
        if len(a):
            lasting = np.ones(len(rows), bool)
            lasting[a] = lasting[b] = False
            self._observe(take_rows(rows, np.flatnonzero(lasting)), now_ns)
            self._observe_pairs(rows, a, b, now_ns)
        else:
            self._observe(rows, now_ns)
        self._observed_ns = now_ns

    def join_translated(self, find: FindPeers, now_ns: int) -> None:
        """Join ends whose Flow Keys NAT made different.

        ``find`` is asked once for each new end that is joined by its 5-tuple and found no peer by
        that. An end that ``find`` had no time for is asked about again.
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
        """Returns which of the translated ends at ``slots``, with these ``peers``, are whole ends.

        Where a host translates what its own socket sends, UDP is metered behind the translation on
        the way out, and before it on the way in. So the socket has two ends, one a direction.
        What the half at a slot has counted goes to the other half, and the slot becomes free.
        """
        if not len(slots):
            return slots
        outside = self._table.take_rows(slots)
        for here, there in (("local", "remote"), ("remote", "local")):
            outside[f"{here}_address"] = peers[f"{there}_address"]
            outside[f"{here}_port"] = peers[f"{there}_port"]
        others, is_half = self._finder.find_keys(end_words(outside))
        is_half &= (others != slots) & (self._table.state[others] == OPEN)
        halves = np.flatnonzero(is_half)
        if len(halves):
            self._table.absorb(others[halves], slots[halves])
            self._remove(slots[halves])
            self.observed_flows -= len(halves)
        return np.flatnonzero(~is_half)

    def _observe_pairs(self, rows: Rows, a: Slots, b: Slots, now_ns: int) -> None:
        """Make records of closed connections, but of those that the table knows."""
        known = self._finder.find_ids(rows["id"][a]) != NOBODY
        known |= self._finder.find_ids(rows["id"][b]) != NOBODY
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
            rows = concatenate_rows([rows])  # a copy, in which ids are set
            slots = self._finder.locate_keys(rows, udp)
            rows, slots = drop_copies(self._table, rows, slots)
        else:
            slots = self._finder.locate(rows["id"])
        parts = find_parts(self._table, rows, slots) if len(udp) else None
        rows, slots = merge_rows(rows, slots, self._table.scratch)
        is_new = self._table.state[slots] == FREE
        new, known = np.flatnonzero(is_new), np.flatnonzero(~is_new)
        self._open(slots[new], take_rows(rows, new), now_ns)
        self._update(slots[known], take_rows(rows, known), now_ns)
        self._join(slots, now_ns)
        if parts:
            self._ready.append(build_part_records(self._table, parts, now_ns, self._host_netns))
        self._change_peers(slots, now_ns)

    def expire(self, now_ns: int, wall_offset_ns: int) -> Rows:
        """Returns records (RECORD_DTYPE) that are due by timeout, end of flow or lack of room."""
        self._forget_ended(now_ns)
        leaders = self._leaders()
        reasons = self._timeouts.find_due(self._table, leaders, now_ns)
        if self._waiting.has_ambiguous() and self._join_due(leaders[reasons != 0], now_ns):
            leaders = self._leaders()
            reasons = self._timeouts.find_due(self._table, leaders, now_ns)
        self.evicted += evict(self._table, leaders, reasons, self._max_entries)
        due = np.flatnonzero(reasons)
        lasting = self._export(leaders[due], reasons[due], now_ns, wall_offset_ns)
        return self._with_ready(lasting, wall_offset_ns)

    def flush(self, now_ns: int, wall_offset_ns: int) -> Rows:
        """Returns records of all that is left, for the reason FORCED_END; empties the cache."""
        if self._waiting.has_ambiguous():
            self._join_due(self._leaders(), now_ns)
        leaders = self._leaders()
        reasons = np.full(len(leaders), EndReason.FORCED_END, np.uint8)
        records = self._export(leaders, reasons, now_ns, wall_offset_ns)
        self._remove(np.flatnonzero(self._table.state[: self._table.top] != FREE))
        return self._with_ready(records, wall_offset_ns)

    def take_ready(self, wall_offset_ns: int) -> list[Rows]:
        """Returns blocks of records that were due as soon as they were observed.

        They are of short connections, and of former owners and former peers of UDP ends.
        """
        blocks, self._ready = self._ready, []
        for records in blocks:
            records["first_ns"] += wall_offset_ns
            records["last_ns"] += wall_offset_ns
            records["begun_ns"] += wall_offset_ns
        return blocks

    def _with_ready(self, records: Rows, wall_offset_ns: int) -> Rows:
        """Returns ``records`` behind those that ``take_ready`` would give."""
        blocks = self.take_ready(wall_offset_ns)
        return concatenate_rows([*blocks, records]) if blocks else records

    def _open(self, slots: Slots, rows: Rows, now_ns: int) -> None:
        if not len(slots):
            return
        table = self._table
        table.open(slots, rows, now_ns)
        self.observed_flows += len(slots)
        # A socket that is seen only now, and older than this, comes back after an idle timeout or
        # an eviction. Its earlier packets are in earlier records; these came since the last read.
        resumed = slots[table.last_ns[slots] - table.since_ns[slots] > self._timeouts.idle]
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
            # A peer on this host has told what this end received.
            alone = table.peer[slots[late]] == NOBODY
            self.lost_packets += int(sent.sum()) + int(received[alone].sum())
            table.ended_ns[slots[late]] = now_ns

    def _revive(self, slots: Slots) -> None:
        """Let UDP flows go on that had ended: the port was taken over, or the packets were late."""
        if not len(slots):
            return
        ends = distinct(self._with_peers(slots))
        self._table.revive(ends, self._observed_ns)
        peers = self._table.peer[ends]
        self.observed_flows += int(np.count_nonzero((peers == NOBODY) | (ends < peers)))

    def _join(self, slots: Slots, now_ns: int) -> None:
        """Let ends wait whose key is known since now, and join those that find each other."""
        table = self._table
        lonely = slots[(table.peer[slots] == NOBODY) & (table.state[slots] == OPEN)]
        nameless = lonely[table.key[lonely] == 0]
        # Sequence numbers never change, so the later of two ends finds the earlier one at once.
        # Ends by 5-tuple try again: traffic may become plausible, or a key may become unambiguous.
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
        """Join ambiguous ends that are about to be told. Returns True if there were any."""
        table = self._table
        lonely = due[(table.peer[due] == NOBODY) & (table.key[due] != 0)]
        a, b = pair_ambiguous(self._waiting, table, lonely, is_last_chance=True)
        self._link(a, b, now_ns)
        return self._change_peers(lonely, now_ns) or len(a) > 0

    def _link(self, a: Slots, b: Slots, now_ns: int) -> None:
        """Make the ends at a[i] and b[i] one entry."""
        if not len(a):
            return
        table = self._table
        table.link(a, b)
        self._leave(np.concatenate([a, b]))
        self.observed_flows -= len(a)
        self._bury_late(a, b, now_ns)

    def _change_peers(self, slots: Slots, now_ns: int) -> bool:
        """Join ends that lost their peer with its successors. Returns True if there were any."""
        table, found = self._table, False
        for _ in range(_PEER_CHANGES):
            ends, successors = find_peer_changes(table, slots)
            if not len(ends):
                break
            found = True
            closed = table.peer[ends].astype(np.int64)
            # A flow that had ended was counted again when the end went on.
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
        """Let ends wait for their peer. Returns those that have a key by now."""
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
        """End the wait of those ends that wait."""
        table = self._table
        entered = slots[table.key[slots] != 0]
        self._waiting.leave(table.key[entered], table.group[entered], entered)
        table.key[entered] = 0

    def _bury_late(self, a: Slots, b: Slots, now_ns: int) -> None:
        """End entries of which one end had ended: records of that end have told the late one's
        packets."""
        state = self._table.state
        one_ended = (state[a] == ENDED) != (state[b] == ENDED)
        late = np.where(state[a] == ENDED, b, a)[one_ended]
        self.late_packets += int(self._table.packets(late).sum())
        state[late] = ENDED
        self._table.ended_ns[a[one_ended]] = self._table.ended_ns[b[one_ended]] = now_ns

    def _leaders(self) -> Slots:
        """Returns one end of each live entry."""
        table, top = self._table, self._table.top
        peer = table.peer[:top]
        first = (peer == NOBODY) | (np.arange(top) < peer)
        return np.flatnonzero((table.state[:top] == OPEN) & first)

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
        """Remove entries whose two sockets are gone, as no more can come. Others linger."""
        table = self._table
        peers = table.peer[leaders]
        gone = (peers != NOBODY) & (table.closed_ns[leaders] > 0) & (table.closed_ns[peers] > 0)
        self._remove(self._with_peers(leaders[gone]))
        lingering = self._with_peers(leaders[~gone])
        table.state[lingering] = ENDED
        table.ended_ns[lingering] = now_ns

    def _forget_ended(self, now_ns: int) -> None:
        table = self._table
        ends = self._timeouts.find_forgotten(table, self._max_entries, now_ns)
        self._remove(distinct(np.concatenate([ends, table.peer[ends]])))

    def _with_peers(self, leaders: Slots) -> Slots:
        peers = self._table.peer[leaders].astype(np.int64)
        return np.concatenate([leaders, peers[peers != NOBODY]])

    def _remove(self, slots: Slots) -> None:
        """Free the slots. Both of a joined entry must be among them."""
        slots = slots[slots != NOBODY]
        if not len(slots):
            return
        table = self._table
        self._leave(slots)
        self._finder.forget(slots)
        table.release(slots)
