"""What runtimes of containers say of a container, and what the probe asks of them."""

from __future__ import annotations

from typing import Protocol

from probe.flow.owner import ContainerNames


class Runtime(Protocol):
    """Answers at once from what it knows; it learns in a thread of its own."""

    def find(self, container_id: str, pod_uid: str = "") -> ContainerNames | None:
        """Without a ``name`` where only the Pod that it is in is known."""

    def take_changed(self) -> set[str]:
        """Ids of containers, and UIDs of Pods, that have been named, or named anew, since the last
        call."""

    def patience_s(self, in_pod: bool = False) -> float:
        """How long it is worth to wait for the names of a container that is not known yet."""

    def is_at(self, container_id: str, cgroup: str, pod_uid: str) -> bool | None:
        """Whether a cgroup is where the runtime has put that container; None: it cannot tell."""

    def close(self) -> None: ...


class KnownContainers:
    """Names by container id: of all that exist, and of the latest ``keep_gone`` that do not.

    Written by one thread and read by another, each step of which is atomic.
    """

    def __init__(self, keep_gone: int = 4096) -> None:
        self._names: dict[str, ContainerNames] = {}
        self._gone: dict[str, None] = {}  # in the order in which they went
        self._changed: list[str] = []
        self._keep_gone = keep_gone

    def __len__(self) -> int:
        """Those that exist."""
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
        """It may still be asked for: its last flows come later than its end."""
        if container_id not in self._names:
            return
        self._gone.pop(container_id, None)
        self._gone[container_id] = None
        while len(self._gone) > self._keep_gone:
            oldest = next(iter(self._gone))
            del self._gone[oldest], self._names[oldest]

    def replace_all(self, names: dict[str, ContainerNames]) -> None:
        """``names`` are all that exist."""
        for container_id in [known for known in self._names if known not in names]:
            if container_id not in self._gone:
                self.remove(container_id)
        for container_id, found in names.items():
            self.add(container_id, found)

    def take_changed(self) -> set[str]:
        changed = self._changed[:]  # the other thread may add while we look
        del self._changed[: len(changed)]
        return set(changed)
