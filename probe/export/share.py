"""Splits flows over a group of destinations. Both directions of a flow go to the same one.

Theory of operation, for "hash":

1. ``flow_hash`` maps each record to a hash of its Flow Key. Both directions have the same hash.
2. All records of a flow must have one hash, but NAT may be known for some of its records only. So
   the smallest hash of a flow within a batch applies to all its records there.
3. The hash of a flow that continues is remembered, and replaces the hashes in its later records.
   Two generations bound that memory.
4. Each member mixes the hash with a seed made of its own name. The member with the greatest result
   gets the flow (rendezvous hashing). So only the flows of a lost member move.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.flow.codes import EndReason
from probe.flow.key_index import KeyIndex
from probe.flow.rows import Rows, take_rows

Words = NDArray[np.uint64]

# The finalizer of MurmurHash3 (public domain, A. Appleby): each bit affects all bits of the result.
_MIX_1, _MIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)
#: Records hashed at a time: few enough that the results stay in the processor's cache.
_LOT = 8192
_ODD = np.uint64(0x9E3779B97F4A7C15)
#: Flows whose hash each of the two generations remembers.
_REMEMBERED = 65536


class ShareGroup:
    """A group of destinations that divide flows among them.

    ``names`` are the URLs of the members; ``kind`` is "hash" or "round-robin".

    hash: rendezvous hashing of the Flow Key. The member depends on the key and the names only, so
    it is the same after a restart and in another probe. While a member is down, its flows go to the
    others, and no other flow moves. A flow keeps the hash of its first records, because its
    translation by NAT may be known for one direction only, or later.

    round-robin: divides evenly by the number of the flow, which differs in every run. When a member
    goes down or comes back, all flows are divided again.
    """

    def __init__(self, kind: str, names: Sequence[str]) -> None:
        if kind not in ("hash", "round-robin"):
            raise ValueError(f"no way to share: {kind}")
        self._is_hash = kind == "hash"
        # Not hashlib: it loads libcrypto, 4 MB of memory for a few names.
        checksums = np.array([zlib.crc32(name.encode()) for name in names], np.uint64)
        self._seeds = list(_mix(checksums + _ODD))
        self._memory = _Memory()

    def split(self, records: Rows, is_up: Sequence[bool]) -> list[Rows]:
        """Returns one array for each member, of the same dtype and in the order of ``records``.

        If all members are down, they are treated as if all were up: each sink counts its losses.
        """
        count = len(self._seeds)
        up = [member for member in range(count) if is_up[member]] or list(range(count))
        if len(up) == 1 or not len(records):
            chosen = up[0]
            return [records if member == chosen else records[:0] for member in range(count)]
        choose = self._by_hash if self._is_hash else self._in_turn
        words = self._keys_of(records) if self._is_hash else records["flow_id"]
        lots = range(0, len(records), _LOT)
        position = np.concatenate([choose(words[at : at + _LOT], up) for at in lots])
        shares = [records[:0]] * count
        for number, member in enumerate(up):
            shares[member] = take_rows(records, np.flatnonzero(position == number))
        return shares

    def _keys_of(self, records: Rows) -> Words:
        """Returns a hash for each record, which is the same for all records of a flow.

        That includes records of earlier calls, as far as they are remembered.
        """
        lots = range(0, len(records), _LOT)
        keys = np.concatenate([flow_hash(records[at : at + _LOT]) for at in lots])
        flows = records["flow_id"]
        order = np.argsort(flows, kind="stable")
        is_first = np.ones(len(order), bool)
        is_first[1:] = flows[order[1:]] != flows[order[:-1]]
        first = np.flatnonzero(is_first)
        each = np.minimum.reduceat(keys[order], first)
        goes_on = records["end_reason"] == EndReason.ACTIVE_TIMEOUT
        self._memory.apply(flows[order[first]], each, np.maximum.reduceat(goes_on[order], first))
        keys[order] = each[np.cumsum(is_first) - 1]
        return keys

    def _by_hash(self, keys: Words, up: list[int]) -> NDArray[np.intp]:
        """Returns for each flow the index into ``up`` of the member with the greatest weight."""
        best = np.zeros(len(keys), np.intp)
        weight = _mix(keys ^ self._seeds[up[0]])
        for number, member in enumerate(up[1:], 1):
            other = _mix(keys ^ self._seeds[member])
            best[other > weight] = number
            np.maximum(weight, other, out=weight)
        return best

    def _in_turn(self, flows: Words, up: list[int]) -> NDArray[np.intp]:
        """Returns an index into ``up`` for each flow number.

        The numbers are mixed first: they are made of the time and the CPU, so their low bits are
        not evenly distributed.
        """
        return (_mix(flows) % np.uint64(len(up))).astype(np.intp)


class _Memory:
    """The hashes of flows that continue, in two generations.

    When the younger generation is full, the older one is dropped and the younger takes its place.
    A flow that is seen again is written to the younger one.
    """

    def __init__(self) -> None:
        self._young, self._old = _Generation(), _Generation()

    def apply(self, flows: Words, keys: Words, goes_on: NDArray[np.bool_]) -> None:
        """Replaces ``keys`` of known flows by the remembered ones, and remembers continuing flows.

        ``flows`` are distinct flow numbers, ``keys`` their hashes.
        """
        for generation in (self._old, self._young):
            generation.read(flows, keys)
        going = np.flatnonzero(goes_on)
        for at in range(0, len(going), _REMEMBERED):
            few = going[at : at + _REMEMBERED]
            if self._young.count + len(few) > _REMEMBERED:
                self._young, self._old = _Generation(), self._young
            self._young.write(flows[few], keys[few])


class _Generation:
    def __init__(self) -> None:
        self.count = 0
        self._index = KeyIndex()
        self._keys: Words = np.zeros(256, np.uint64)

    def read(self, flows: Words, keys: Words) -> None:
        if self.count:
            places = self._index.find(flows)
            known = np.flatnonzero(places)
            keys[known] = self._keys[places[known]]

    def write(self, flows: Words, keys: Words) -> None:
        fresh = np.flatnonzero(self._index.find(flows) == 0)
        places = np.arange(self.count + 1, self.count + 1 + len(fresh))
        self.count += len(fresh)
        if self.count >= len(self._keys):
            more = np.zeros(self.count + 1, np.uint64)  # twice as many as are in use
            self._keys = np.append(self._keys, more)
        self._index.insert(flows[fresh], places)
        self._keys[places] = keys[fresh]


def flow_hash(records: Rows) -> Words:
    """Returns a hash of the Flow Key that is the same in both directions.

    A flow translated by NAT has two keys: one direction shows the addresses before translation, the
    other those after it. If both are known, the smaller of their hashes is used.
    """
    keys = _key_hash(_by_word(records), "source", "destination")
    if "translated" in (records.dtype.names or ()):
        rows = np.flatnonzero(records["translated"])
        if len(rows):
            wide = _by_word(records[rows])
            keys[rows] = np.minimum(keys[rows], _key_hash(wide, "nat_source", "nat_destination"))
    return keys


def _key_hash(wide: Rows, source: str, destination: str) -> Words:
    hashed = _end_hash(wide, source)
    hashed += _end_hash(wide, destination)  # a sum: the same in both directions
    hashed += wide["protocol"] * _ODD
    return hashed


def _end_hash(wide: Rows, side: str) -> Words:
    hashed: Words = wide[f"{side}_port"].astype(np.uint64)
    hashed *= _MIX_2
    hashed ^= wide[f"{side}_first"]
    if f"{side}_last" in (wide.dtype.names or ()):
        hashed += wide[f"{side}_last"] * _ODD
    return _mix(hashed)


def _mix(words: Words) -> Words:
    mixed = words ^ (words >> _SHIFT)
    mixed *= _MIX_1
    mixed ^= mixed >> _SHIFT
    mixed *= _MIX_2
    mixed ^= mixed >> _SHIFT
    return mixed


def _by_word(records: Rows) -> Rows:
    """Returns a view of the Flow Key's columns.

    Addresses are little-endian words, so that hashes are the same on every machine.
    """
    fields: Mapping[str, tuple[Any, ...]] = records.dtype.fields or {}
    columns = {"protocol": ("u1", fields["protocol"][1])}
    for side in ("source", "destination", "nat_source", "nat_destination"):
        if f"{side}_address" not in fields:
            continue
        kind, start = fields[f"{side}_address"][:2]
        columns[f"{side}_port"] = ("u2", fields[f"{side}_port"][1])
        if kind.itemsize == 4:
            columns[f"{side}_first"] = ("<u4", start)
        else:
            columns[f"{side}_first"], columns[f"{side}_last"] = ("<u8", start), ("<u8", start + 8)
    layout: Any = {
        "names": list(columns),
        "formats": [kind for kind, _ in columns.values()],
        "offsets": [offset for _, offset in columns.values()],
        "itemsize": records.dtype.itemsize,
    }
    wide: Rows = records.view(np.dtype(layout))
    return wide
