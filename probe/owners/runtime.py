"""The interface of container runtimes, and a store of the names that they give."""

from __future__ import annotations

from typing import Protocol

from probe.flow.owner import ContainerNames


class Runtime(Protocol):
    """Names containers at once, from what a thread of its own has learned."""

    def find(self, container_id: str, pod_uid: str = "") -> ContainerNames | None:
        """Returns names or None; a ``name`` is missing if only the container's Pod is known."""

    def take_changed(self) -> set[str]:
        """Returns the container ids and Pod UIDs that were named or renamed.

        It counts those since the previous call.
        """

    def patience_s(self, in_pod: bool = False) -> float:
        """Returns the seconds to wait for the names of a container that is not known yet."""

    def is_at(self, container_id: str, cgroup: str, pod_uid: str) -> bool | None:
        """Returns True if the runtime put the container in this cgroup, None if unknown."""

    def close(self) -> None: ...


class KnownContainers:
    """Names by container id: of all that exist, and of the latest ``keep_gone`` that ended.

    One thread writes them and another reads. Each step is atomic.
    """

    def __init__(self, keep_gone: int = 4096) -> None:
        self._names: dict[str, ContainerNames] = {}
        self._gone: dict[str, None] = {}  # in the order in which they ended
        self._changed: list[str] = []
        self._keep_gone = keep_gone

    def __len__(self) -> int:
        """Returns the number of containers that exist."""
        return len(self._names) - len(self._gone)

    def find(self, container_id: str, pod_uid: str = "") -> ContainerNames | None:
        return self._names.get(container_id)

    def is_at(self, container_id: str, cgroup: str, pod_uid: str) -> bool | None:
        return None

    def add(self, container_id: str, names: ContainerNames) -> None:
        self._gone.pop(container_id, None)
        if self._names.get(container_id) != names:
            self._names[container_id] = names
            self._changed.append(container_id)

    def remove(self, container_id: str) -> None:
        """Notes that a container ended. It can still be found, as its last flows come later."""
        if container_id not in self._names:
            return
        self._gone.pop(container_id, None)
        self._gone[container_id] = None
        while len(self._gone) > self._keep_gone:
            oldest = next(iter(self._gone))
            del self._gone[oldest], self._names[oldest]

    def replace_all(self, names: dict[str, ContainerNames]) -> None:
        """Sets the names of all containers that exist."""
        for container_id in [known for known in self._names if known not in names]:
            if container_id not in self._gone:
                self.remove(container_id)
        for container_id, found in names.items():
            self.add(container_id, found)

    def take_changed(self) -> set[str]:
        changed = self._changed[:]  # the other thread may append meanwhile
        del self._changed[: len(changed)]
        return set(changed)
