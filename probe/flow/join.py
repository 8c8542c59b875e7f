"""Which two ends are of one connection: a meeting place keyed by what both ends know.

TCP ends share their pair of initial sequence numbers, which survives NAT; UDP ends, and TCP ends
marked BY_TUPLE, share the reversed 5-tuple. Only ends that have no peer yet are here. Where several
ends have equal keys (equal addresses in isolated namespaces) they are a crowd. Those of a crowd of
TCP ends with sequence numbers are not joined; the others are told apart by time and counters
(``flow/ambiguous_ends``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probe.flow.codes import TCP, UDP, Mark, Role
from probe.flow.end_table import NOBODY, EndTable
from probe.flow.key_index import U64
from probe.flow.keys import are_equal, hash_words, join_words
from probe.flow.rows import Flags, Rows, Slots, take_rows
from probe.flow.waiting_ends import WaitingEnds

_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
#: A receiver may lead its sender by what was in flight between the two reads of a snapshot.
_LEAD_PACKETS = 64


def join_keys(rows: Rows) -> tuple[U64, U64]:
    """The key of each end and that of its possible peer; (0, 0) where an end cannot be joined."""
    own, mirror = _sequence_keys(rows)
    by_tuple = np.flatnonzero(meets_by_tuple(rows["protocol"], rows["mark"]))
    if len(by_tuple):
        words, mirrors = join_words(take_rows(rows, by_tuple))
        own[by_tuple], mirror[by_tuple] = hash_words(words), hash_words(mirrors)
    joinable = own != mirror  # a socket that talks to itself would meet itself
    return np.where(joinable, own, 0).astype(np.uint64), np.where(joinable, mirror, 0).astype(
        np.uint64
    )


def meets_by_tuple(protocol: NDArray[np.uint8], mark: NDArray[np.uint8]) -> Flags:
    """Ends whose key is the 5-tuple: UDP, and TCP of collectors that see no sequence numbers."""
    marked = (mark & np.uint8(Mark.BY_TUPLE)) != 0
    by_tuple: Flags = (protocol == UDP) | ((protocol == TCP) & marked)
    return by_tuple


def is_loose(rows: Rows) -> Flags:
    """TCP ends whose isn_local may be one too small: active openers older than the probe."""
    older = (rows["mark"] & np.uint8(Mark.PREEXISTING)) != 0
    loose: Flags = older & (rows["role"] == Role.UNKNOWN) & (rows["protocol"] == TCP)
    return loose & ~meets_by_tuple(rows["protocol"], rows["mark"])


def shift_local(keys: U64, by: int) -> U64:
    """TCP keys with isn_local changed, modulo 2**32."""
    local = ((keys >> _HALF) + np.uint64(by % 2**32)) & _LOW
    return (local << _HALF) | (keys & _LOW)


def shift_remote(keys: U64, by: int) -> U64:
    """TCP keys with isn_remote changed, modulo 2**32."""
    return (keys & ~_LOW) | ((keys + np.uint64(by % 2**32)) & _LOW)


def find_peers(waiting: WaitingEnds, table: EndTable, slots: Slots) -> Slots:
    """The candidate of each entered end, by keys alone, or NOBODY."""
    mirror = table.mirror[slots]
    peers = np.where(waiting.is_alone(table.group[slots]), waiting.sole(mirror), NOBODY)
    if table.is_loose[: table.top].any():
        _find_loose(waiting, table, slots, mirror, peers)
    return peers


def _find_loose(
    waiting: WaitingEnds, table: EndTable, slots: Slots, mirror: U64, peers: Slots
) -> None:
    """Try again with this end's isn_local one higher, then with the other end's."""
    tcp = table.rows["protocol"][slots] == TCP
    mine = np.flatnonzero((peers == NOBODY) & table.is_loose[slots])
    peers[mine] = waiting.sole(shift_remote(mirror[mine], 1))
    theirs = np.flatnonzero((peers == NOBODY) & tcp)
    found = waiting.sole(shift_local(mirror[theirs], -1))
    peers[theirs] = np.where(table.is_loose[found], found, NOBODY)


def distinct_pairs(a: Slots, b: Slots, claim: NDArray[np.int32]) -> tuple[Slots, Slots]:
    """Each pair once, whichever of its ends found the other; no slot in two pairs.

    ``claim`` is scratch space as long as the highest slot needs.
    """
    low, high = np.minimum(a, b), np.maximum(a, b)
    turn = np.arange(len(low), dtype=np.int32)
    claim[low] = turn
    claim[high] = turn
    kept = (claim[low] == turn) & (claim[high] == turn)
    return low[kept], high[kept]


def are_plausible(table: EndTable, a: Slots, b: Slots) -> Flags:
    """Same protocol; by 5-tuple: the exact reverse, and what one received the other sent."""
    protocol, mark = table.rows["protocol"], table.rows["mark"]
    reverse = protocol[a] == protocol[b]
    some = np.flatnonzero(reverse & meets_by_tuple(protocol[a], mark[a]))
    if len(some):
        reverse[some] = are_reverse(table, a[some], b[some])
        reverse[some] &= is_traffic_shared(table.packets(a[some]), table.packets(b[some]))
    plausible: Flags = reverse & (a != b)
    return plausible


def are_reverse(table: EndTable, a: Slots, b: Slots) -> Flags:
    """The whole Flow Key of one is what the other expects of its peer."""
    words_a, expected_a = table.join_words(a)
    words_b, expected_b = table.join_words(b)
    return are_equal(words_a, expected_b) | are_equal(words_b, expected_a)


def is_traffic_shared(a: NDArray[np.int64], b: NDArray[np.int64]) -> Flags:
    """(n, [tx, rx]) packets. Equal addresses elsewhere would show as traffic of unlike size."""
    some = ((a[:, 0] > 0) & (b[:, 1] > 0)) | ((b[:, 0] > 0) & (a[:, 1] > 0))
    return (
        some & (b[:, 1] <= 2 * a[:, 0] + _LEAD_PACKETS) & (a[:, 1] <= 2 * b[:, 0] + _LEAD_PACKETS)
    )


def _sequence_keys(rows: Rows) -> tuple[U64, U64]:
    local, remote = rows["isn_local"].astype(np.uint64), rows["isn_remote"].astype(np.uint64)
    known = ((local | remote) != 0) & (rows["protocol"] == TCP)
    own, mirror = (local << _HALF) | remote, (remote << _HALF) | local
    return np.where(known, own, 0).astype(np.uint64), np.where(known, mirror, 0).astype(np.uint64)
