"""Names of other ends by their addresses: Pods, Services and nodes of the whole cluster.

An address goes from one Pod to the next, so it is told who had it when: a flow that is older than
a Pod is not that Pod's, and one that began before its end is, whenever its record comes.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.flow.batch import OwnerSource, Rows
from probe.flow.owner import ContainerNames, Owner, OwnerTable
from probe.metadata.kubernetes.objects import Named, service_port
from probe.metadata.naming import with_names

_KEPT_GONE = 4096
_UNUSED_S = 300.0
_NEVER = 2**63 - 1
_MOST_BEHIND = 65536  # flows through a Service

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
        for address in one.addresses:
            found = self.find(address)
            others = [t for t in found if t.uid != one.uid]
            own = next((t for t in found if t.uid == one.uid and t.end_ns == _NEVER), None)
            start_ns = own.start_ns if own else _start_after(others, one.start_ns)
            tenure = Tenure(one.uid, one.names, start_ns)
            if tenure not in found:  # the same object goes on: what was made of it is kept by it
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
    """When an object that began at ``start_ns`` got an address that ``others`` had: it exists
    before it has one. While somebody else is still told to have it, that is now."""
    now_ns = time.time_ns()
    return max([start_ns, *(min(one.end_ns, now_ns) + 1 for one in others)])


class NodeNames(Tenures):
    """Those of nodes, and the zones that these are in."""

    def __init__(self) -> None:
        super().__init__()
        self._zones: dict[str, str] = {}  # name of a node -> zone

    def zone(self, node: str) -> str:
        return self._zones.get(node, "")

    def add(self, one: Named) -> None:
        super().add(one)
        self._zones[one.names.node] = one.names.zone

    def remove(self, one: Named) -> None:
        super().remove(one)
        self._zones.pop(one.names.node, None)


class RemoteNames(Tenures):
    """Those of Pods, and beside them those of ``services`` and ``nodes``."""

    def __init__(self) -> None:
        super().__init__()
        self.services, self.nodes = Tenures(), NodeNames()


@dataclass(slots=True)
class _Known:
    names: tuple[ContainerNames | None, ContainerNames | None]
    index: int
    used_s: float


class RemoteEnds:
    """Owners of the ends of records that are on other hosts."""

    def __init__(self, names: RemoteNames, owners: OwnerTable) -> None:
        self._names, self._owners = names, owners
        #: By id() of names, which are kept there, and the name of the Service.
        self._known: dict[tuple[int, int, str], _Known] = {}
        self._behind: dict[int, bytes] = {}  # flow id -> address behind that of a Service

    def apply(self, records: Rows) -> None:
        """Fills in the owners of ``records`` (RECORD_DTYPE) at ends without a socket here.

        Behind the address of a Service is a Pod, which NAT tells of one direction only: the other
        one, and later records of the flow, have the same.
        """
        now_s = time.monotonic()
        foreign = {
            side: np.flatnonzero((records[f"{side}_owner"] == 0) & (records[f"{side}_netns"] == 0))
            for side in ("source", "destination")
        }
        for side, at in foreign.items():
            self._note_translated(records, side, at[records["translated"][at] != 0])
        for side, at in foreign.items():
            self._name(records, side, at, now_s)

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

    def _note_translated(self, records: Rows, side: str, at: Positions) -> None:
        after = _sixteen_octets(records[f"nat_{side}_address"][at])
        for place, address in zip(at.tolist(), after, strict=True):
            if address in self._names:
                flow_id = int(records["flow_id"][place])
                self._behind.pop(flow_id, None)
                self._behind[flow_id] = address
        while len(self._behind) > _MOST_BEHIND:
            del self._behind[next(iter(self._behind))]

    def _name(self, records: Rows, side: str, at: Positions, now_s: float) -> None:
        """Of most records it is asked only whether anybody has the address."""
        if not len(at):
            return
        octets = _sixteen_octets(records[f"{side}_address"][at])
        names, services, nodes = self._names, self._names.services, self._names.nodes
        flows, behind = records["flow_id"][at].tolist(), self._behind
        hits = [
            place
            for place, one in enumerate(octets)
            if one in names or one in services or one in nodes or flows[place] in behind
        ]
        for hit in hits:
            row = records[int(at[hit])]
            index = self._find(row, side, octets[hit], now_s)
            if index:
                records[f"{side}_owner"][at[hit]] = index
                records[f"{side}_owner_source"][at[hit]] = OwnerSource.ADDRESS

    def _find(self, row: np.void, side: str, address: bytes, now_s: float) -> int:
        """The owner of one end; 0 for nobody."""
        begun = int(row["begun_ns"]) or int(row["first_ns"])
        behind = self._behind.get(int(row["flow_id"]))
        service = self._names.services.find_at(address, begun)
        pod = self._names.find_at(behind, begun) if behind else None
        if pod is None and service is None:
            pod = self._names.find_at(address, begun) or self._names.nodes.find_at(address, begun)
        port = ""
        if service:
            port = service_port(service, int(row["protocol"]), int(row[f"{side}_port"]))
        return self._index(pod, service, port, now_s)

    def _index(
        self, pod: ContainerNames | None, service: ContainerNames | None, port: str, now_s: float
    ) -> int:
        """In the table of owners; 0 for nobody."""
        names = pod or service
        if names is None:
            return 0
        key = id(pod), id(service), port
        known = self._known.get(key)
        if known is None:
            owner = with_names(Owner(), names)
            zone = owner.zone or self._names.nodes.zone(owner.node)
            index = self._owners.add(dataclasses.replace(owner, service=port, zone=zone))
            known = self._known[key] = _Known((pod, service), index, now_s)
        known.used_s = now_s
        return known.index


def _sixteen_octets(addresses: Rows) -> list[bytes]:
    padded = np.zeros((len(addresses), 16), np.uint8)
    padded[:, : addresses.shape[1]] = addresses
    found: list[bytes] = padded.view("V16")[:, 0].tolist()
    return found
