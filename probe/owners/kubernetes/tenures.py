"""Records who had an address at what time: Pods, Services and nodes of the whole cluster.

An address passes from one Pod to the next, so each owner of it has a start and an end. A flow that
is older than a Pod is not that Pod's. A flow that began before a Pod's end is, no matter when its
record comes.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import numpy as np

from probe.flow.owner import ContainerNames
from probe.flow.rows import Rows
from probe.owners.kubernetes.objects import Named

_KEPT_GONE = 4096
_NEVER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Tenure:
    """The time during which an object had an address, ``start_ns`` to ``end_ns`` (Unix times)."""

    uid: str
    names: ContainerNames
    start_ns: int
    end_ns: int = _NEVER


class Tenures:
    """A ``Store`` of the present and past owners of each address (16 octets), the latest last.

    One thread writes and another reads. An address's tuple is replaced as a whole.
    """

    def __init__(self) -> None:
        self._by_address: dict[bytes, tuple[Tenure, ...]] = {}
        self._addresses: dict[str, tuple[bytes, ...]] = {}  # UID -> its addresses
        self._gone: deque[tuple[bytes, str]] = deque()

    def __len__(self) -> int:
        return len(self._by_address)

    def __contains__(self, address: bytes) -> bool:
        return address in self._by_address

    def find(self, address: bytes) -> tuple[Tenure, ...]:
        return self._by_address.get(address, ())

    def find_at(self, address: bytes, time_ns: int) -> ContainerNames | None:
        """Returns the names of the owner at that time, or None."""
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
        for address in one.addresses:
            found = self.find(address)
            others = [t for t in found if t.uid != one.uid]
            own = next((t for t in found if t.uid == one.uid and t.end_ns == _NEVER), None)
            start_ns = own.start_ns if own else _start_after(others, one.start_ns)
            tenure = Tenure(one.uid, one.names, start_ns)
            if tenure not in found:  # an equal tenure stays the same object, by which callers cache
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


def _start_after(others: list[Tenure], start_ns: int) -> int:
    """Returns the time at which an object got an address that ``others`` had.

    An object exists (from ``start_ns``) before it gets its address. If another object still has the
    address according to the API, the time is now.
    """
    now_ns = time.time_ns()
    return max([start_ns, *(min(one.end_ns, now_ns) + 1 for one in others)])


class NodeNames(Tenures):
    """The names of nodes, and their zones."""

    def __init__(self) -> None:
        super().__init__()
        self._zones: dict[str, str] = {}  # node name -> zone

    def zone(self, node: str) -> str:
        return self._zones.get(node, "")

    def add(self, one: Named) -> None:
        super().add(one)
        self._zones[one.names.node.name] = one.names.node.zone

    def remove(self, one: Named) -> None:
        super().remove(one)
        self._zones.pop(one.names.node.name, None)


class RemoteNames(Tenures):
    """The names of Pods, and of ``services`` and ``nodes`` beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.services, self.nodes = Tenures(), NodeNames()


def sixteen_octets(addresses: Rows) -> list[bytes]:
    """Returns addresses of 16 octets, IPv4 first, as those of ``Named``."""
    padded = np.zeros((len(addresses), 16), np.uint8)
    padded[:, : addresses.shape[1]] = addresses
    found: list[bytes] = padded.view("V16")[:, 0].tolist()
    return found
