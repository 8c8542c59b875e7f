"""Names the other ends of flows by their addresses: Pods, Services and nodes of the cluster."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.enrich.container_owners import with_names
from probe.enrich.enrichers import Enricher
from probe.flow.cache import FindPeers
from probe.flow.codes import OwnerSource
from probe.flow.columns import ROW_DTYPE
from probe.flow.owner import ContainerNames, Node, Owner, OwnerTable, share
from probe.flow.rows import Rows
from probe.owners.kubernetes.objects import service_port
from probe.owners.kubernetes.tenures import RemoteNames, sixteen_octets

_UNUSED_S = 300.0
_MOST_BEHIND = 65536  # flows through a Service

Positions = NDArray[np.intp]


@dataclass(slots=True)
class _Known:
    names: tuple[ContainerNames | None, ContainerNames | None]
    index: int
    used_s: float


class RemoteOwners(Enricher):
    """Gives owners to the ends of records that are on other hosts.

    ``find_peers`` (``Nat.find_peers``) looks up one direction of a flow in conntrack.
    """

    def __init__(self, names: RemoteNames, owners: OwnerTable) -> None:
        self._names, self._owners = names, owners
        self.find_peers: FindPeers | None = None
        #: By id() of both names, which ``_Known`` keeps alive, and the name of the Service's port.
        self._known: dict[tuple[int, int, str], _Known] = {}
        self._behind: dict[int, bytes] = {}  # flow id -> address behind that of a Service

    def apply(self, records: Rows) -> Rows:
        """Fills in the owners of ``records`` at ends without a socket here. Returns all of them.

        Behind the address of a Service is a Pod. NAT shows this Pod in one direction only. The
        other direction and later records of the flow get the same Pod.
        """
        now_s = time.monotonic()
        foreign = {
            side: np.flatnonzero((records[f"{side}_owner"] == 0) & (records[f"{side}_netns"] == 0))
            for side in ("source", "destination")
        }
        for side, at in foreign.items():
            self._note_translated(records, side, at[records["translated"][at] != 0])
        self._ask_of_replies(records, foreign["source"])
        for side, at in foreign.items():
            self._name(records, side, at, now_s)
        return records

    def sweep(self, in_use: set[int], now_s: float) -> list[int]:
        """Forgets owners that no record has named for long, and returns their indices."""
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
        after = sixteen_octets(records[f"nat_{side}_address"][at])
        for place, address in zip(at.tolist(), after, strict=True):
            self._note_behind(int(records["flow_id"][place]), address)

    def _ask_of_replies(self, records: Rows, at: Positions) -> None:
        """Looks up the Pods behind replies of flows without a request.

        NAT shows the Pod of requests. If a reply leaves before any request, as from a server that
        goes on sending, conntrack is asked for the tuple of a request.
        """
        if self.find_peers is None or not len(self._names.services):
            return
        octets = sixteen_octets(records["source_address"][at])
        flows = records["flow_id"][at].tolist()
        alone = [
            place
            for place, address, flow in zip(at.tolist(), octets, flows, strict=True)
            if address in self._names.services and flow not in self._behind
        ]
        if not alone:
            return
        replies = records.take(np.array(alone, np.intp))
        packets = replies["packets"].astype(np.int64)
        _, found, peers = self.find_peers(_clients(replies), packets)
        after = sixteen_octets(peers["local_address"])
        for place, address in zip(found.tolist(), after, strict=True):
            self._note_behind(int(replies["flow_id"][place]), address)

    def _note_behind(self, flow_id: int, address: bytes) -> None:
        if address not in self._names:
            return
        self._behind.pop(flow_id, None)
        self._behind[flow_id] = address
        while len(self._behind) > _MOST_BEHIND:
            del self._behind[next(iter(self._behind))]

    def _name(self, records: Rows, side: str, at: Positions, now_s: float) -> None:
        """Names ends; for most of them it only checks that their address is unknown."""
        if not len(at):
            return
        octets = sixteen_octets(records[f"{side}_address"][at])
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
        """Returns the owner of one end, 0 for none."""
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
        """Returns the owner's index in the table, 0 for none."""
        names = pod or service
        if names is None:
            return 0
        key = id(pod), id(service), port
        known = self._known.get(key)
        if known is None:
            owner = with_names(Owner(), names)
            node = owner.node
            node = share(Node(node.name, node.zone or self._names.nodes.zone(node.name)))
            index = self._owners.add(dataclasses.replace(owner, service=port, node=node))
            known = self._known[key] = _Known((pod, service), index, now_s)
        known.used_s = now_s
        return known.index


def _clients(replies: Rows) -> Rows:
    """Returns the flow ends that received ``replies``."""
    ends: Rows = np.zeros(len(replies), ROW_DTYPE)
    for name in ("protocol", "ip_version"):
        ends[name] = replies[name]
    ends["netns"] = replies["destination_netns"]
    for end, side in (("local", "destination"), ("remote", "source")):
        for part in ("address", "port"):
            ends[f"{end}_{part}"] = replies[f"{side}_{part}"]
    return ends
