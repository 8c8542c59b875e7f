"""Several ends with one key, and several that could be their peers: a *crowd* with two sides.

Equal addresses and ports are used in isolated networks at the same time: in the loopback of each
container, or behind each of two bridges. So addresses do not tell who talks to whom, but time and
counters do. The first datagram of a conversation makes both of its ends within microseconds. After
the latest one both ends have counted the same.

So ends are sorted by time. An end and its neighbour of the other side are a pair if no other
neighbour is nearly as near. ::

    side A    a1                a2   a3
    side B      b1          b2          b3          a1-b1 and a3-b3 are pairs, then a2-b2
    time -------------------------------------->

The first try is by the time when ends began. The second is by their latest packet, where counters
must agree, too. What neither tells apart is paired when its records are due, the nearest first. A
name may be a wrong one then, but nothing is counted twice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probe.flow.end_table import NOBODY, EndTable
from probe.flow.join import are_plausible, meets_by_tuple
from probe.flow.rows import Flags, Slots
from probe.flow.waiting_ends import WaitingEnds

I64 = NDArray[np.int64]

_BEGAN_TOGETHER_NS = 100_000_000
_HEARD_TOGETHER_NS = 100_000_000
#: A pair is clear if the next candidate is so many times as far away.
_CLEARLY = 4
_EVER = 2**61
_ROUNDS = 16


def pair_ambiguous(
    waiting: WaitingEnds, table: EndTable, seekers: Slots, is_last_chance: bool = False
) -> tuple[Slots, Slots]:
    """Returns pairs (a, b) of ends without a peer, of the crowds that ``seekers`` belong to."""
    crowd, members = _members(waiting, table, seekers)
    a, b = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for _ in range(_ROUNDS):
        if not len(members):
            break
        first, second = _pair_some(table, crowd, members, is_last_chance)
        if not len(first):
            break
        a.append(first)
        b.append(second)
        rest = ~np.isin(members, np.concatenate([first, second]))
        crowd, members = crowd[rest], members[rest]
    return np.concatenate(a), np.concatenate(b)


def _members(waiting: WaitingEnds, table: EndTable, seekers: Slots) -> tuple[I64, Slots]:
    """Returns twice the number of its crowd, plus its side, for each end of these; and the ends."""
    protocol, mark = table.rows["protocol"][seekers], table.rows["mark"][seekers]
    own, other = table.group[seekers], waiting.find(table.mirror[seekers])
    several = (waiting.count(own) > 1) | (waiting.count(other) > 1)
    several &= (other != 0) & meets_by_tuple(protocol, mark)
    if not several.any():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    own, other = own[several], other[several]
    number = np.zeros(waiting.size, np.int64)
    number[own] = number[other] = np.minimum(own, other)
    top = table.top
    waits = (table.peer[:top] == NOBODY) & (table.key[:top] != 0)
    members = np.flatnonzero(waits & (number[table.group[:top]] != 0))
    groups = table.group[members]
    return 2 * number[groups] + (groups != number[groups]), members


def _pair_some(
    table: EndTable, crowd: I64, members: Slots, is_last_chance: bool
) -> tuple[Slots, Slots]:
    began, heard = table.begun_ns[members], table.last_ns[members]
    a, b = _nearest(crowd, began, _BEGAN_TOGETHER_NS, _CLEARLY)
    good = are_plausible(table, members[a], members[b])
    if not good.any():
        a, b = _nearest(crowd, heard, _HEARD_TOGETHER_NS, _CLEARLY)
        good = are_plausible(table, members[a], members[b])
        good &= _have_counted_the_same(table, members[a], members[b])
    if is_last_chance and not good.any():
        a, b = _nearest(crowd, began, _EVER, 1)
        good = are_plausible(table, members[a], members[b])
    return members[a[good]], members[b[good]]


def _nearest(crowd: I64, time_ns: I64, most_ns: int, clearly: int) -> tuple[Slots, Slots]:
    """Returns neighbours in time of different sides that are nearer than their other ones."""
    order = np.lexsort((time_ns, crowd >> 1))
    time_ns, crowd = time_ns[order], crowd[order]
    gap = time_ns[1:] - time_ns[:-1] + 1
    fits = ((crowd[1:] ^ crowd[:-1]) == 1) & (gap <= most_ns)
    others = np.full(len(gap) + 2, _EVER)
    others[1:-1] = np.where(fits, gap, _EVER)
    fits &= (clearly * gap < others[:-2]) & (clearly * gap <= others[2:])
    at = np.flatnonzero(fits)
    return order[at], order[at + 1]


def _have_counted_the_same(table: EndTable, a: Slots, b: Slots) -> Flags:
    """Returns where each received what the other sent.

    An eighth of it may be on the way, or lost.
    """
    one, other = table.packets(a), table.packets(b)[:, ::-1]
    same: Flags = (np.abs(one - other) * 8 <= np.maximum(one, other)).all(axis=1)
    return same
