"""UDP ends that lost their peer and go on with another one, in another network namespace.

A container that is started again has its old address in a new namespace. Its peer's socket sees no
difference and counts on. So of what the peer has, what the former end accounts for is told as their
conversation, and the rest belongs to the successor.
"""

from __future__ import annotations

import numpy as np

from probe.flow.codes import UDP
from probe.flow.end_table import FREE, NOBODY, OPEN, PACKETS, EndTable
from probe.flow.join import are_reverse, is_traffic_shared
from probe.flow.key_index import distinct
from probe.flow.keys import hash_words
from probe.flow.rows import Flags, Slots

#: The latest packet of an end is known to a jiffy, when an end began to a nanosecond.
_SLACK_NS = 20_000_000
_SILENT_NS = 1_000_000_000


def find_peer_changes(table: EndTable, slots: Slots) -> tuple[Slots, Slots]:
    """(survivors, successors): ends that lost their peer, and those that took its place.

    The latter are sought among the ends at ``slots``, and those that wait for a peer, being closed.
    """
    nobody = np.zeros(0, np.int64)
    closed = table.closed_ns[: table.top] > 0
    left = _left_alone(table, closed)
    if not len(left):
        return nobody, nobody
    waiting = np.flatnonzero(closed & (table.peer[: table.top] == NOBODY))  # not for long
    seekers = distinct(np.concatenate([slots, waiting]))
    seekers = seekers[(table.peer[seekers] == NOBODY) & (table.state[seekers] == OPEN)]
    seekers = seekers[(table.key[seekers] != 0) & (table.rows["protocol"][seekers] == UDP)]
    if not len(seekers):
        return nobody, nobody
    survivors, seekers = _matched(table, left, seekers)
    shared = are_reverse(table, survivors, seekers)
    shared &= table.last_ns[survivors] + _SLACK_NS >= table.begun_ns[seekers]
    rest = table.total[survivors] - table.total[table.peer[survivors]][:, ::-1]
    shared &= is_traffic_shared(np.maximum(rest[:, :, PACKETS], 0), table.packets(seekers))
    return survivors[shared], seekers[shared]


def _left_alone(table: EndTable, closed: Flags) -> Slots:
    """Open UDP ends whose peer has closed, or is silent while they go on.

    Of a server's socket only the end of its first peer is known to close.
    """
    peers, last = table.peer[: table.top], table.last_ns[: table.top]
    gone = closed | (last[peers] - last >= _SILENT_NS)
    gone &= (peers != NOBODY) & (table.state[: table.top] != FREE) & ~closed[peers]
    ends = peers[np.flatnonzero(gone)].astype(np.int64)
    udp: Slots = ends[table.rows["protocol"][ends] == UDP]
    return udp


def _matched(table: EndTable, survivors: Slots, seekers: Slots) -> tuple[Slots, Slots]:
    """Pairs whose keys are the reverse of each other; of several seekers the earliest."""
    words, _ = table.join_words(survivors)
    keys = hash_words(words)
    order = np.argsort(keys)
    keys, survivors = keys[order], survivors[order]
    seekers = seekers[np.argsort(-table.begun_ns[seekers])]
    at = np.minimum(np.searchsorted(keys, table.mirror[seekers]), len(keys) - 1)
    found = keys[at] == table.mirror[seekers]
    chosen = np.zeros(len(survivors), np.int64)
    chosen[at[found]] = seekers[found]  # the last one stays
    known = chosen != NOBODY
    return survivors[known], chosen[known]
