"""Names of other ends by their addresses: Pods and Services of the whole cluster.

An address goes from one Pod to the next, so it is told who had it when: a flow that is older than
a Pod is not that Pod's, and one that began before its end is, whenever its record comes.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.flow.batch import OwnerSource, Rows
from probe.flow.owner import ContainerNames, Owner, OwnerTable
from probe.metadata.kubernetes.objects import Named
from probe.metadata.naming import with_names

_KEPT_GONE = 4096
_UNUSED_S = 300.0
_NEVER = 2**63 - 1

Positions = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Tenure:
    """Who had an address, from ``start_ns`` until ``end_ns`` (Unix times)."""

    uid: str
    names: ContainerNames
    start_ns: int
    end_ns: int = _NEVER


class Tenures:
    """A ``Store``: address (16 octets) -> who has it and who had it, the latest last.

    Written by one thread and read by another: an address's tuple is replaced as a whole.
    """

    def __init__(self) -> None:
        self._by_address: dict[bytes, tuple[Tenure, ...]] = {}
        self._addresses: dict[str, tuple[bytes, ...]] = {}  # UID -> those it has
        self._gone: deque[tuple[bytes, str]] = deque()

    def __len__(self) -> int:
        return len(self._by_address)

    def __contains__(self, address: bytes) -> bool:
        return address in self._by_address

    def find(self, address: bytes) -> tuple[Tenure, ...]:
        return self._by_address.get(address, ())

    def find_at(self, address: bytes, time_ns: int) -> ContainerNames | None:
        """Who had it then."""
        for tenure in reversed(self.find(address)):
            if tenure.start_ns <= time_ns <= tenure.end_ns:
                return tenure.names
        return None

    def replace_all(self, found: list[Named]) -> None:
        here = {one.uid for one in found}
        for uid in [uid for uid in self._addresses if uid not in here]:
            self._end(uid)
        for one in found:
            self.add(one)

    def add(self, one: Named) -> None:
        had = self._addresses.get(one.uid, ())
        for address in had:
            if address not in one.addresses:
                self._close(address, one.uid)
        tenure = Tenure(one.uid, one.names, one.start_ns)
        for address in one.addresses:
            found = self.find(address)
            if tenure not in found:  # the same object goes on: what was made of it is kept by it
                others = (t for t in found if t.uid != one.uid)
                self._by_address[address] = tuple(sorted((*others, tenure), key=_start))
        if one.addresses:
            self._addresses[one.uid] = one.addresses
        else:
            self._addresses.pop(one.uid, None)

    def remove(self, one: Named) -> None:
        self._end(one.uid)

    def _end(self, uid: str) -> None:
        for address in self._addresses.pop(uid, ()):
            self._close(address, uid)

    def _close(self, address: bytes, uid: str) -> None:
        now_ns = time.time_ns()
        self._by_address[address] = tuple(
            Tenure(t.uid, t.names, t.start_ns, now_ns) if t.uid == uid else t
            for t in self.find(address)
        )
        self._gone.append((address, uid))
        while len(self._gone) > _KEPT_GONE:
            self._forget(*self._gone.popleft())

    def _forget(self, address: bytes, uid: str) -> None:
        left = tuple(t for t in self.find(address) if t.uid != uid or t.end_ns == _NEVER)
        if left:
            self._by_address[address] = left
        else:
            self._by_address.pop(address, None)


def _start(tenure: Tenure) -> int:
    return tenure.start_ns


class RemoteNames(Tenures):
    """Those of Pods, and beside them those of ``services``."""

    def __init__(self) -> None:
        super().__init__()
        self.services = Tenures()


@dataclass(slots=True)
class _Known:
    names: ContainerNames
    index: int
    used_s: float


class RemoteEnds:
    """Owners of the ends of records that are on other hosts."""

    def __init__(self, names: RemoteNames, owners: OwnerTable) -> None:
        self._names, self._owners = names, owners
        self._known: dict[int, _Known] = {}  # by id() of names, which are kept there

    def apply(self, records: Rows) -> None:
        """Fills in the owners of ``records`` (RECORD_DTYPE) at ends without a socket here.

        A Pod is known by its address behind NAT before that of the Service in front of it.
        """
        now_s = time.monotonic()
        for side in ("source", "destination"):
            foreign = (records[f"{side}_owner"] == 0) & (records[f"{side}_netns"] == 0)
            at = np.flatnonzero(foreign)
            translated = at[records["translated"][at] != 0]
            after, before = records[f"nat_{side}_address"], records[f"{side}_address"]
            self._name(records, side, translated, after, self._names, now_s)
            for names in (self._names, self._names.services):
                at = at[records[f"{side}_owner"][at] == 0]
                self._name(records, side, at, before, names, now_s)

    def sweep(self, in_use: set[int], now_s: float) -> list[int]:
        """Forgets those that no record has named for long; their indices."""
        old = [
            key
            for key, known in self._known.items()
            if known.index not in in_use and now_s - known.used_s > _UNUSED_S
        ]
        released = [self._known.pop(key).index for key in old]
        for index in released:
            self._owners.release(index)
        return released

    def _name(
        self, records: Rows, side: str, at: Positions, addresses: Rows, names: Tenures, now_s: float
    ) -> None:
        """Of most records it is asked only whether anybody has the address."""
        if not len(at) or not len(names):
            return
        octets = _sixteen_octets(addresses[at])
        hits = [place for place, one in enumerate(octets) if one in names]
        if not hits:
            return
        at = at[hits]
        begun = np.where(records["begun_ns"][at], records["begun_ns"][at], records["first_ns"][at])
        found = [
            self._index(names.find_at(octets[place], time_ns), now_s)
            for place, time_ns in zip(hits, begun.tolist(), strict=True)
        ]
        indices = np.array(found, np.uint32)
        at, indices = at[indices != 0], indices[indices != 0]
        records[f"{side}_owner"][at] = indices
        records[f"{side}_owner_source"][at] = OwnerSource.ADDRESS

    def _index(self, names: ContainerNames | None, now_s: float) -> int:
        """In the table of owners; 0 for nobody."""
        if names is None:
            return 0
        known = self._known.get(id(names))
        if known is None:
            index = self._owners.add(with_names(Owner(), names))
            known = self._known[id(names)] = _Known(names, index, now_s)
        known.used_s = now_s
        return known.index


def _sixteen_octets(addresses: Rows) -> list[bytes]:
    padded = np.zeros((len(addresses), 16), np.uint8)
    padded[:, : addresses.shape[1]] = addresses
    found: list[bytes] = padded.view("V16")[:, 0].tolist()
    return found
