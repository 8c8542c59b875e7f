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

    def find(self, address: bytes) -> tuple[Tenure, ...]:
        return self._by_address.get(address, ())

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
        for address in one.addresses:
            tenure = Tenure(one.uid, one.names, one.start_ns)
            others = (t for t in self.find(address) if t.uid != one.uid)
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


class RemoteEnds:
    """Owners of the ends of records that are on other hosts."""

    def __init__(self, names: RemoteNames, owners: OwnerTable) -> None:
        self._names, self._owners = names, owners
        self._indices: dict[ContainerNames, int] = {}
        self._used_s: dict[ContainerNames, float] = {}

    def apply(self, records: Rows) -> None:
        """Fills in the owners of ``records`` (RECORD_DTYPE) at ends without a socket here.

        A Pod is known by its address behind NAT before that of the Service in front of it.
        """
        for side in ("source", "destination"):
            foreign = (records[f"{side}_owner"] == 0) & (records[f"{side}_netns"] == 0)
            at = np.flatnonzero(foreign)
            if not len(at):
                continue
            translated = at[records["translated"][at] != 0]
            self._name(records, side, translated, records[f"nat_{side}_address"], self._names)
            for names in (self._names, self._names.services):
                at = at[records[f"{side}_owner"][at] == 0]
                self._name(records, side, at, records[f"{side}_address"], names)

    def sweep(self, in_use: set[int], now_s: float) -> list[int]:
        """Forgets those that no record has named for long; their indices."""
        old = [
            names
            for names, index in self._indices.items()
            if index not in in_use and now_s - self._used_s[names] > _UNUSED_S
        ]
        released = [self._indices.pop(names) for names in old]
        for names, index in zip(old, released, strict=True):
            del self._used_s[names]
            self._owners.release(index)
        return released

    def _name(
        self, records: Rows, side: str, at: NDArray[np.intp], addresses: Rows, names: Tenures
    ) -> None:
        begun = np.where(records["begun_ns"][at], records["begun_ns"][at], records["first_ns"][at])
        for rows, address in _by_address(addresses[at]):
            for tenure in names.find(address):
                during = (tenure.start_ns <= begun[rows]) & (begun[rows] <= tenure.end_ns)
                if during.any():
                    chosen = at[rows[during]]
                    records[f"{side}_owner"][chosen] = self._index(tenure.names)
                    records[f"{side}_owner_source"][chosen] = OwnerSource.ADDRESS

    def _index(self, names: ContainerNames) -> int:
        index = self._indices.get(names)
        if index is None:
            index = self._indices[names] = self._owners.add(with_names(Owner(), names))
        self._used_s[names] = time.monotonic()
        return index


def _by_address(addresses: Rows) -> list[tuple[NDArray[np.intp], bytes]]:
    """(rows, address in 16 octets) of each that there is."""
    padded = np.zeros((len(addresses), 16), np.uint8)
    padded[:, : addresses.shape[1]] = addresses
    numbers: dict[bytes, int] = {}
    found = padded.view("V16")[:, 0].tolist()
    places = np.array([numbers.setdefault(one, len(numbers)) for one in found], np.intp)
    order = np.argsort(places, kind="stable")
    ends = np.cumsum(np.bincount(places))[:-1]
    return list(zip(np.split(order, ends), numbers, strict=True)) if found else []
