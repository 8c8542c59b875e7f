"""Guards parts of the probe that many other parts call.

After such a part has failed, its callers get its latest answer or an empty one, and go on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from probe.enrich.container_owners import ContainerOwners
from probe.flow.owner import ContainerNames
from probe.guard import Part
from probe.interfaces.interface import Interface
from probe.interfaces.names import InterfaceList
from probe.interfaces.table import InterfaceTable
from probe.owners.runtime import Runtime


class GuardedRuntime:
    """A ``Runtime`` that gives empty answers once it has raised an error."""

    def __init__(self, runtime: Runtime, part: Part) -> None:
        self.runtime = runtime
        self._part = part

    def find(self, container_id: str, pod_uid: str = "") -> ContainerNames | None:
        return self._part.call(self.runtime.find, container_id, pod_uid)

    def take_changed(self) -> set[str]:
        return self._part.call(self.runtime.take_changed) or set()

    def patience_s(self, in_pod: bool = False) -> float:
        return self._part.call(self.runtime.patience_s, in_pod) or 0.0

    def is_at(self, container_id: str, cgroup: str, pod_uid: str) -> bool | None:
        return self._part.call(self.runtime.is_at, container_id, cgroup, pod_uid)

    def close(self) -> None:
        self.runtime.close()


class GuardedOwners(ContainerOwners):
    """Container owners that keep their names once naming has failed."""

    def __init__(self, part: Part, find_addresses: Callable[[], dict[str, str]]) -> None:
        super().__init__(find_addresses=find_addresses)
        self.part = part

    def refresh(self) -> list[int]:
        return self.part.call(super().refresh) or []

    def nameless(self, now_s: float) -> NDArray[np.int64]:
        found = self.part.call(super().nameless, now_s)
        return np.zeros(0, np.int64) if found is None else found


class GuardedInterfaces(InterfaceTable):
    """An interface table that keeps its latest counters once reading them has failed."""

    def __init__(self, interfaces: InterfaceList, owners: ContainerOwners, part: Part) -> None:
        super().__init__(interfaces, owners.find_names)
        self._part = part
        self._latest: list[Interface] = []
        self._behind: dict[int, tuple[str, ContainerNames | None, str]] = {}

    def read(self) -> list[Interface]:
        found = self._part.call(super().read)
        self._latest = self._latest if found is None else found
        return self._latest

    def containers(self) -> dict[int, tuple[str, ContainerNames | None, str]]:
        found = self._part.call(super().containers)
        self._behind = self._behind if found is None else found
        return self._behind
