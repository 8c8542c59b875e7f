"""Adds Services to the owners of Pods of this host.

Such a Pod has a socket here, so its end has an owner already. A Service belongs to the flow and not
to the process, which clients can also reach directly. So an end that a client reached through a
Service gets another owner: the same process and Pod, with the Service.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.enrich.enrichers import Enricher
from probe.flow.codes import OwnerSource
from probe.flow.owner import Owner, OwnerTable
from probe.flow.rows import Rows
from probe.owners.kubernetes.objects import service_port
from probe.owners.kubernetes.tenures import Tenures, sixteen_octets

_SIDES = ("source", "destination")
_UNUSED_S = 300.0
_MOST_FLOWS = 65536


@dataclass(slots=True)
class _Served:
    """An owner, and the ``index`` of the same owner with its Service."""

    owner: Owner
    index: int
    used_s: float


@dataclass(slots=True)
class _Flow:
    """A flow through ``service``.

    ``target`` is address and port of the server's socket, if they are known.
    """

    service: str
    target: tuple[bytes, int] | None = None


class ServiceOwners(Enricher):
    """Adds Services to the owners of records, at ends that have a socket here.

    Call it last, when records have their final names: an owner that is renamed later counts as
    another one.
    """

    def __init__(self, services: Tenures, owners: OwnerTable) -> None:
        self._services, self._owners = services, owners
        self._known: dict[tuple[int, str], _Served] = {}  # by id() of the owner in _Served
        self._flows: dict[int, _Flow] = {}  # by flow id

    def apply(self, records: Rows) -> Rows:
        """Fills in the owners of ``records`` that were reached by a Service. Returns all of them.

        One direction of a flow, usually the client's, has the Service's address at the server's
        end. The other direction gets the same Service if conntrack does not show it.
        """
        if not len(self._services) or not len(records):
            return records
        is_here = [
            (records[f"{side}_owner"] != 0)
            & (records[f"{side}_owner_source"] != OwnerSource.ADDRESS)
            for side in _SIDES
        ]
        asked = np.flatnonzero((is_here[0] & is_here[1]) | (records["translated"] != 0))
        found = {
            (side, place): service
            for side, here in zip(_SIDES, is_here, strict=True)
            for place, service in self._find(records, side, asked[here[asked]])
        }
        for place in asked.tolist():
            flow = self._flows.get(int(records["flow_id"][place]))
            if flow and not {("source", place), ("destination", place)} & found.keys():
                side = self._server_side(records[place], flow)
                if is_here[_SIDES.index(side)][place]:
                    found[side, place] = flow.service
        now_s = time.monotonic()
        for (side, place), service in found.items():
            column = records[f"{side}_owner"]
            column[place] = self._index(self._owners[int(column[place])], service, now_s)
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

    def _find(self, records: Rows, side: str, at: NDArray[np.intp]) -> list[tuple[int, str]]:
        """Returns (position, Service) of the ends at ``side`` that have a Service's address.

        A socket or conntrack may have seen that address.
        """
        found = []
        for prefix in (side, f"nat_{side}"):
            addresses = sixteen_octets(records[f"{prefix}_address"][at])
            for place, address in zip(at.tolist(), addresses, strict=True):
                if address in self._services:
                    service = self._service(records[place], address, f"{prefix}_port")
                    if service:
                        target = None if prefix == side else _end(records[place], side)
                        self._note_flow(int(records["flow_id"][place]), service, target)
                        found.append((place, service))
        return found

    @staticmethod
    def _server_side(row: np.void, flow: _Flow) -> str:
        """Returns the server's side of a record without the Service's address.

        Usually the server sent such a record. But UDP datagrams from a process of the host are
        metered after the host's own NAT.
        """
        return "destination" if _end(row, "destination") == flow.target else "source"

    def _service(self, row: np.void, address: bytes, port: str) -> str:
        begun = int(row["begun_ns"]) or int(row["first_ns"])
        names = self._services.find_at(address, begun)
        return service_port(names, int(row["protocol"]), int(row[port])) if names else ""

    def _note_flow(self, flow_id: int, service: str, target: tuple[bytes, int] | None) -> None:
        before = self._flows.pop(flow_id, None)
        self._flows[flow_id] = _Flow(service, target or (before.target if before else None))
        while len(self._flows) > _MOST_FLOWS:
            del self._flows[next(iter(self._flows))]

    def _index(self, owner: Owner, service: str, now_s: float) -> int:
        """Returns the index of the owner with its Service, which is made if it does not exist."""
        known = self._known.get((id(owner), service))
        if known is None:
            index = self._owners.add(dataclasses.replace(owner, service=service))
            known = self._known[id(owner), service] = _Served(owner, index, now_s)
        known.used_s = now_s
        return known.index


def _end(row: np.void, side: str) -> tuple[bytes, int]:
    return row[f"{side}_address"].tobytes(), int(row[f"{side}_port"])
