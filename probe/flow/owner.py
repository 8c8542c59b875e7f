"""Who is behind a flow end: interned, so that arrays carry integers and names are encoded once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Owner:
    """A process with its parent, user and container, as stamped when the socket was used.

    Strings are '' and ids None where unknown. ``path_source``: '' unknown, 'walked' (the kernel's
    path of the executable within the process's root), 'exec' (the file name given to exec).
    ``node``: the name of the host that the process runs on. ``unit``: of systemd, for a process in
    no container.
    """

    pid: int | None = None
    process_name: str = ""
    process_path: str = ""
    path_source: str = ""
    parent_pid: int | None = None
    parent_name: str = ""
    parent_path: str = ""
    uid: int | None = None
    gid: int | None = None
    user_name: str = ""
    command_line: str = ""
    cgroup: str = ""
    container_id: str = ""
    container_name: str = ""
    container_image: str = ""
    compose_project: str = ""
    compose_service: str = ""
    pod_name: str = ""
    pod_namespace: str = ""
    pod_uid: str = ""
    node: str = ""
    unit: str = ""


UNKNOWN = Owner()


class OwnerTable:
    """Index -> Owner; index 0 is the unknown owner. Indices are reused only after ``release``."""

    def __init__(self) -> None:
        self._owners: list[Owner | None] = [UNKNOWN]
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._owners) - len(self._free)

    def __getitem__(self, index: int) -> Owner:
        return self._owners[index] or UNKNOWN

    def add(self, owner: Owner) -> int:
        if self._free:
            index = self._free.pop()
            self._owners[index] = owner
            return index
        self._owners.append(owner)
        return len(self._owners) - 1

    def replace(self, index: int, owner: Owner) -> None:
        """Another description of the same process; what was encoded of it is stale from now on."""
        self._owners[index] = owner

    def release(self, index: int) -> None:
        """Forget an owner that no row or record names any more."""
        if index and self._owners[index] is not None:
            self._owners[index] = None
            self._free.append(index)
