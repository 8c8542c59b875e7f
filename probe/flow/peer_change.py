"""UDP ends that lost their peer and go on with another one, in another network namespace.

A container that is started again has its old address in a new namespace. The socket of its peer
sees no difference, and goes on counting. What the former end has counted, too, is told as their
conversation. The rest is of the conversation with the successor.
"""

from __future__ import annotations

import numpy as np

from probe.flow.codes import UDP
from probe.flow.end_table import FREE, NOBODY, OPEN, PACKETS, EndTable
from probe.flow.join import are_reverse, is_traffic_shared
from probe.flow.key_index import distinct
from probe.flow.keys import hash_words
from probe.flow.rows import Flags, Slots

#: The time of a latest packet is exact to a jiffy, the start of an end to a nanosecond.
_SLACK_NS = 20_000_000
_SILENT_NS = 1_000_000_000


def find_peer_changes(table: EndTable, slots: Slots) -> tuple[Slots, Slots]:
    """Returns (survivors, successors): ends that lost their peer, and who took its place.

    Successors are sought among the ends at ``slots``, and the closed ones that wait for a peer.
    """
    nobody = np.zeros(0, np.int64)
    closed = table.closed_ns[: table.top] > 0
    left = _left_alone(table, closed)
    if not len(left):
        return nobody, nobody
    waiting = np.flatnonzero(
        closed & (table.peer[: table.top] == NOBODY)
    )  # they do so not for long
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
    """Returns open UDP ends whose peer has closed, or is silent while they go on.

    A server's socket has many ends, and only that of its first peer is known to close.
    """
    peers, last = table.peer[: table.top], table.last_ns[: table.top]
    gone = closed | (last[peers] - last >= _SILENT_NS)
    gone &= (peers != NOBODY) & (table.state[: table.top] != FREE) & ~closed[peers]
    ends = peers[np.flatnonzero(gone)].astype(np.int64)
    udp: Slots = ends[table.rows["protocol"][ends] == UDP]
    return udp


def _matched(table: EndTable, survivors: Slots, seekers: Slots) -> tuple[Slots, Slots]:
    """Returns pairs whose keys are the reverse of each other. Of several seekers one is chosen,
    the earliest."""
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
