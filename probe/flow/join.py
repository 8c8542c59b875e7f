"""Which two ends are of one connection: a meeting place keyed by what both ends know.

TCP ends share their pair of initial sequence numbers, which survives NAT; UDP ends, and TCP ends
marked BY_TUPLE, share the reversed 5-tuple. Ends with equal keys (equal addresses in isolated
namespaces) make a crowd, and nobody of a crowd is joined.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probe.flow.batch import Mark, Role, Rows
from probe.flow.ends import NOBODY, TCP, UDP, EndTable, Flags, Slots, take_rows
from probe.flow.index import U64, KeyIndex

_MIX = np.uint64(0xFF51AFD7ED558CCD)  # MurmurHash3's finaliser
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_LOOPBACK_SIX = np.frombuffer(bytes(7) + b"\1", np.uint64)[0]
_TCP_APART = np.uint64(0x9E3779B97F4A7C15)  # the same ports over UDP are another flow
#: A receiver may lead its sender by what was in flight between the two reads of a snapshot.
_LEAD_PACKETS = 64


class MeetingPlace:
    """Members per key, and the member that waits under the mirrored key."""

    def __init__(self) -> None:
        self._index = KeyIndex()
        self._members = np.zeros(256, np.int64)
        self._sum = np.zeros(256, np.int64)  # of member slots: of one member, its slot
        self._free: Slots = np.arange(255, 0, -1)

    def __len__(self) -> int:
        """Keys with members."""
        return len(self._index)

    def enter(self, keys: U64, slots: Slots) -> Slots:
        """Add members; returns the group of each, to be shown again by ``leave``."""
        groups = self._groups(keys)
        np.add.at(self._members, groups, 1)
        np.add.at(self._sum, groups, slots)
        return groups

    def leave(self, keys: U64, groups: Slots, slots: Slots) -> None:
        np.subtract.at(self._members, groups, 1)
        np.subtract.at(self._sum, groups, slots)
        empty = np.flatnonzero(self._members[groups] == 0)
        turn = np.arange(len(empty))
        self._sum[groups[empty]] = turn  # several may leave one group: the last one closes it
        closing = empty[self._sum[groups[empty]] == turn]
        self._sum[groups[closing]] = 0
        self._index.remove(keys[closing])
        self._free = np.concatenate([self._free, groups[closing]])

    def is_alone(self, groups: Slots) -> Flags:
        alone: Flags = self._members[groups] == 1
        return alone

    def sole(self, keys: U64) -> Slots:
        """The slot of the only member under each key; NOBODY if none or several."""
        groups = self._index.find(keys)
        return np.where(self._members[groups] == 1, self._sum[groups], NOBODY)

    def _groups(self, keys: U64) -> Slots:
        while len(self._free) < len(keys):
            self._grow()
        kept = len(self._free) - len(keys)
        offered, self._free = self._free[kept:], self._free[:kept]
        groups = self._index.insert(keys, offered)
        self._free = np.concatenate([self._free, offered[groups != offered]])
        return groups

    def _grow(self) -> None:
        size = len(self._members)
        self._free = np.concatenate([np.arange(2 * size - 1, size - 1, -1), self._free])
        self._members = np.concatenate([self._members, np.zeros(size, np.int64)])
        self._sum = np.concatenate([self._sum, np.zeros(size, np.int64)])


def meeting_keys(rows: Rows) -> tuple[U64, U64]:
    """The key of each end and that of its possible peer; (0, 0) where an end cannot be joined."""
    own, mirror = _sequence_keys(rows)
    by_tuple = np.flatnonzero(meets_by_tuple(rows["protocol"], rows["mark"]))
    if len(by_tuple):
        own[by_tuple], mirror[by_tuple] = _scoped_keys(take_rows(rows, by_tuple))
    joinable = own != mirror  # a socket that talks to itself would meet itself
    return np.where(joinable, own, 0).astype(np.uint64), np.where(joinable, mirror, 0).astype(
        np.uint64
    )


def meets_by_tuple(protocol: NDArray[np.uint8], mark: NDArray[np.uint8]) -> Flags:
    """Ends whose key is the 5-tuple: UDP, and TCP of collectors that see no sequence numbers."""
    marked = (mark & np.uint8(Mark.BY_TUPLE)) != 0
    by_tuple: Flags = (protocol == UDP) | ((protocol == TCP) & marked)
    return by_tuple


def name_udp_ends(rows: Rows) -> Rows:
    """Rows of which those of UDP have an id made of their namespace and 5-tuple.

    That is the Flow Key of RFC 7011: a socket that takes over the port of one that has just
    closed goes on with the same flow, as the peer (which sees no difference) does too.
    """
    udp = np.flatnonzero(rows["protocol"] == UDP)
    if not len(udp):
        return rows
    named = rows.copy()
    own, _ = _tuple_keys(take_rows(rows, udp))
    netns: U64 = rows["netns"][udp].astype(np.uint64)
    named["id"][udp] = _mixed(own + netns * _MIX)
    return named


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


def find_peers(place: MeetingPlace, table: EndTable, slots: Slots) -> Slots:
    """The candidate of each entered end, by keys alone, or NOBODY."""
    mirror = table.mirror[slots]
    peers = np.where(place.is_alone(table.group[slots]), place.sole(mirror), NOBODY)
    if table.is_loose[: table.top].any():
        _find_loose(place, table, slots, mirror, peers)
    return peers


def _find_loose(
    place: MeetingPlace, table: EndTable, slots: Slots, mirror: U64, peers: Slots
) -> None:
    """Try again with this end's isn_local one higher, then with the other end's."""
    tcp = table.rows["protocol"][slots] == TCP
    mine = np.flatnonzero((peers == NOBODY) & table.is_loose[slots])
    peers[mine] = place.sole(shift_remote(mirror[mine], 1))
    theirs = np.flatnonzero((peers == NOBODY) & tcp)
    found = place.sole(shift_local(mirror[theirs], -1))
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
        ends, others = a[some], b[some]
        reverse[some] = _is_reverse(table.take_rows(ends), table.take_rows(others))
        reverse[some] &= _is_traffic_shared(table.packets(ends), table.packets(others))
    plausible: Flags = reverse & (a != b)
    return plausible


def _is_reverse(a: Rows, b: Rows) -> Flags:
    addresses = (_words(a, "local") == _words(b, "remote")) & (
        _words(a, "remote") == _words(b, "local")
    )
    ports = (a["local_port"] == b["remote_port"]) & (a["remote_port"] == b["local_port"])
    reverse: Flags = addresses.all(axis=1) & ports & (a["ip_version"] == b["ip_version"])
    return reverse


def _is_traffic_shared(a: NDArray[np.int64], b: NDArray[np.int64]) -> Flags:
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


def _scoped_keys(rows: Rows) -> tuple[U64, U64]:
    """As ``_tuple_keys``; of TCP, apart by namespace on the loopback, which each has of its own."""
    own, mirror = _tuple_keys(rows)
    local = _words(rows, "local")
    first = rows["local_address"][:, 0]
    four = (rows["ip_version"] == 4) & (first == 127)
    six = (rows["ip_version"] == 6) & (local[:, 0] == 0) & (local[:, 1] == _LOOPBACK_SIX)
    inside = (four | six) & (rows["protocol"] == TCP)
    scope = np.where(inside, _mixed(rows["netns"].astype(np.uint64)), 0).astype(np.uint64)
    protocol = np.where(rows["protocol"] == TCP, _TCP_APART, 0).astype(np.uint64)
    return own ^ scope ^ protocol, mirror ^ scope ^ protocol


def _tuple_keys(rows: Rows) -> tuple[U64, U64]:
    local = _endpoint(rows, "local")
    remote = _endpoint(rows, "remote")
    return _mixed(local * _MIX + remote), _mixed(remote * _MIX + local)


def _endpoint(rows: Rows, side: str) -> U64:
    words = _words(rows, side)
    return _mixed(_mixed(words[:, 0] + rows[f"{side}_port"]) ^ words[:, 1])


def _words(rows: Rows, side: str) -> U64:
    """The addresses of one side as two words each: shape (n, 2)."""
    words: U64 = np.ascontiguousarray(rows[f"{side}_address"]).view(np.uint64)
    return words


def _mixed(words: U64) -> U64:
    words = (words ^ (words >> np.uint64(33))) * _MIX
    return words ^ (words >> np.uint64(29))
