"""Names of containers for owners and records, whenever they come.

Usually a container's name is known before its first process runs, and its owners have it from the
beginning. Where it comes later, owners are described anew, and their records wait for it: a name
that is missing cannot be added to a record that has left.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from probe.flow.batch import RECORD_DTYPE, Rows
from probe.flow.owner import ContainerNames, Owner, OwnerTable
from probe.metadata.runtime import Runtime

_SIDES = ("source_owner", "destination_owner")
_MOST_WAITING = 16384  # records


class ContainerOwners(OwnerTable):
    """An OwnerTable that fills in what runtimes know of the containers of its owners."""

    def __init__(self, runtimes: tuple[Runtime, ...] = ()) -> None:
        super().__init__()
        self._runtimes = runtimes
        self._by_container: dict[str, set[int]] = {}
        self._nameless: dict[str, float] = {}  # container id -> when it was first asked for

    def set_runtimes(self, runtimes: tuple[Runtime, ...]) -> None:
        """From now on; owners that are here already get their names with the next ``refresh``."""
        self._runtimes = runtimes

    def find_names(self, container_id: str) -> ContainerNames | None:
        """What the first runtime that knows the container says of it."""
        found = (runtime.find(container_id) for runtime in self._runtimes)
        return next(filter(None, found), None)

    def add(self, owner: Owner) -> int:
        index = super().add(self._named(owner))
        if owner.container_id:
            self._by_container.setdefault(owner.container_id, set()).add(index)
        return index

    def release(self, index: int) -> None:
        container_id = self[index].container_id
        indices = self._by_container.get(container_id, set())
        indices.discard(index)
        if not indices:
            self._by_container.pop(container_id, None)
            self._nameless.pop(container_id, None)
        super().release(index)

    def refresh(self) -> list[int]:
        """Describes anew the owners in containers that have been named; their indices."""
        changed: list[int] = []
        for runtime in self._runtimes:
            for container_id in runtime.take_changed():
                changed += [i for i in self._by_container.get(container_id, ()) if self._rename(i)]
        return changed

    def nameless(self, now_s: float) -> NDArray[np.int64]:
        """Owners whose container may still be named soon; call it at every tick."""
        patience_s = max((runtime.patience_s() for runtime in self._runtimes), default=0.0)
        found: list[int] = []
        for container_id, since_s in self._nameless.items():
            if since_s == 0.0:
                self._nameless[container_id] = since_s = now_s
            if now_s - since_s < patience_s:
                found += self._by_container.get(container_id, ())
        return np.array(found, np.int64)

    def _rename(self, index: int) -> bool:
        owner = self[index]
        named = self._named(owner)
        if named == owner:
            return False
        self.replace(index, named)
        return True

    def _named(self, owner: Owner) -> Owner:
        container_id = owner.container_id
        if not container_id or not self._runtimes:
            return owner
        if found := self.find_names(container_id):
            self._nameless.pop(container_id, None)
            return dataclasses.replace(
                owner,
                container_name=found.name,
                container_image=found.image,
                compose_project=found.project,
                compose_service=found.service,
                pod_name=found.pod,
                pod_namespace=found.namespace,
                pod_uid=found.pod_uid or owner.pod_uid,
                workload=found.workload,
                labels=found.labels,
            )
        self._nameless.setdefault(container_id, 0.0)
        return owner


class WaitingRecords:
    """Records that wait for the name of a container at one of their ends."""

    def __init__(self, most: int = _MOST_WAITING) -> None:
        self._most = most
        self._records: Rows = np.zeros(0, RECORD_DTYPE)

    def __len__(self) -> int:
        return len(self._records)

    def hold(self, records: Rows, nameless: NDArray[np.int64]) -> Rows:
        """Those of ``records``, and of what waited, that need not wait for the owners ``nameless``.

        Both directions of a flow wait if one of them has to.
        """
        if not len(nameless) and not len(self._records):
            return records
        both = np.concatenate([self._records, records])
        waiting = np.flatnonzero(_waiting(both, nameless))
        if len(waiting) > self._most:
            waiting = waiting[-self._most :]
        self._records = both.take(waiting)
        return both.take(np.setdiff1d(np.arange(len(both)), waiting, assume_unique=True))

    def owners_in_use(self) -> set[int]:
        return {int(index) for side in _SIDES for index in np.unique(self._records[side])}


def _waiting(records: Rows, nameless: NDArray[np.int64]) -> NDArray[np.bool_]:
    must = np.isin(records["source_owner"], nameless)
    must |= np.isin(records["destination_owner"], nameless)
    found: NDArray[np.bool_] = np.isin(records["flow_id"], records["flow_id"][must])
    return found
