"""Which two ends are of one connection.

Theory of operation. Both ends know something in common, of which a key is made. An end without a
peer waits under its own key (``waiting_ends``), and looks for the end under the *mirrored* key. ::

    TCP               (isn_local, isn_remote)      both initial sequence numbers; NAT keeps them
    UDP, BY_TUPLE     hash of the 5-tuple          and of the namespace, for what stays in it
    mirrored          the same with both sides exchanged

A hash only finds: what the peers of a 5-tuple have must be the exact reverse, and what one sent the
other must have received. Several ends have one key where isolated namespaces use equal addresses.
Of TCP with sequence numbers these are not joined. ``ambiguous_ends`` tells the others apart.
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
    """Returns the key of each end and of its possible peer, (0, 0) if it cannot be joined."""
    own, mirror = _sequence_keys(rows)
    by_tuple = np.flatnonzero(meets_by_tuple(rows["protocol"], rows["mark"]))
    if len(by_tuple):
        words, mirrors = join_words(take_rows(rows, by_tuple))
        own[by_tuple], mirror[by_tuple] = hash_words(words), hash_words(mirrors)
    joinable = own != mirror  # a socket that talks to itself would be its own peer
    return np.where(joinable, own, 0).astype(np.uint64), np.where(joinable, mirror, 0).astype(
        np.uint64
    )


def meets_by_tuple(protocol: NDArray[np.uint8], mark: NDArray[np.uint8]) -> Flags:
    """Returns which ends have the 5-tuple for a key: UDP, and TCP without sequence numbers."""
    marked = (mark & np.uint8(Mark.BY_TUPLE)) != 0
    by_tuple: Flags = (protocol == UDP) | ((protocol == TCP) & marked)
    return by_tuple


def is_loose(rows: Rows) -> Flags:
    """Returns which ends may have an isn_local that is one too small.

    These are active openers of TCP that are older than the probe.
    """
    older = (rows["mark"] & np.uint8(Mark.PREEXISTING)) != 0
    loose: Flags = older & (rows["role"] == Role.UNKNOWN) & (rows["protocol"] == TCP)
    return loose & ~meets_by_tuple(rows["protocol"], rows["mark"])


def shift_local(keys: U64, by: int) -> U64:
    """Returns TCP keys with ``by`` added to isn_local, modulo 2**32."""
    local = ((keys >> _HALF) + np.uint64(by % 2**32)) & _LOW
    return (local << _HALF) | (keys & _LOW)


def shift_remote(keys: U64, by: int) -> U64:
    """Returns TCP keys with ``by`` added to isn_remote, modulo 2**32."""
    return (keys & ~_LOW) | ((keys + np.uint64(by % 2**32)) & _LOW)


def find_peers(waiting: WaitingEnds, table: EndTable, slots: Slots) -> Slots:
    """Returns the candidate for each waiting end, by keys alone, or NOBODY."""
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
    """Returns each pair once, whichever of its ends found the other, and no slot in two pairs.

    ``claim`` is scratch space as long as the highest slot needs.
    """
    low, high = np.minimum(a, b), np.maximum(a, b)
    turn = np.arange(len(low), dtype=np.int32)
    claim[low] = turn
    claim[high] = turn
    kept = (claim[low] == turn) & (claim[high] == turn)
    return low[kept], high[kept]


def are_plausible(table: EndTable, a: Slots, b: Slots) -> Flags:
    """Returns which pairs may be peers: of one protocol, and by 5-tuple with the reverse key and
    the same traffic."""
    protocol, mark = table.rows["protocol"], table.rows["mark"]
    reverse = protocol[a] == protocol[b]
    some = np.flatnonzero(reverse & meets_by_tuple(protocol[a], mark[a]))
    if len(some):
        reverse[some] = are_reverse(table, a[some], b[some])
        reverse[some] &= is_traffic_shared(table.packets(a[some]), table.packets(b[some]))
    plausible: Flags = reverse & (a != b)
    return plausible


def are_reverse(table: EndTable, a: Slots, b: Slots) -> Flags:
    """Returns where the whole Flow Key of one end is what the other expects of its peer."""
    words_a, expected_a = table.join_words(a)
    words_b, expected_b = table.join_words(b)
    return are_equal(words_a, expected_b) | are_equal(words_b, expected_a)


def is_traffic_shared(a: NDArray[np.int64], b: NDArray[np.int64]) -> Flags:
    """Returns where one end received about what the other sent; packets are (n, [tx, rx]).

    Ends that have equal addresses by chance differ in their traffic.
    """
    some = ((a[:, 0] > 0) & (b[:, 1] > 0)) | ((b[:, 0] > 0) & (a[:, 1] > 0))
    return (
        some & (b[:, 1] <= 2 * a[:, 0] + _LEAD_PACKETS) & (a[:, 1] <= 2 * b[:, 0] + _LEAD_PACKETS)
    )


def _sequence_keys(rows: Rows) -> tuple[U64, U64]:
    local, remote = rows["isn_local"].astype(np.uint64), rows["isn_remote"].astype(np.uint64)
    known = ((local | remote) != 0) & (rows["protocol"] == TCP)
    own, mirror = (local << _HALF) | remote, (remote << _HALF) | local
    return np.where(known, own, 0).astype(np.uint64), np.where(known, mirror, 0).astype(np.uint64)
