"""Finds the owner of a socket by its cgroup, for sockets whose process cannot be seen.

Only cgroup v2 gives ids to sockets. They are the inodes of its directories, which any user may
read. On hosts whose containers are in a v1 hierarchy such an id names no container, and is ignored.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection

from probe.flow.owner import OwnerTable
from probe.owners.container import owner_of_cgroup
from probe.owners.procfs import count_delegated

_SHARE = 200  # scans take at most half a per cent of one core
_PAUSE_NS = 1_000_000_000
_MOST = 65536


class CgroupPaths:
    """The paths of cgroups by their ids; ``root`` is the mount point of cgroup v2."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._paths: dict[int, str] = {}
        self._due_ns = 0

    def find(self, cgroup_id: int) -> str:
        """Returns the path of a cgroup, or '' if there is none with this id.

        A cgroup that existed at the latest scan is still found after its end.
        """
        if cgroup_id not in self._paths and time.monotonic_ns() >= self._due_ns:
            self._look()
        return self._paths.get(cgroup_id, "")

    def _look(self) -> None:
        started = time.monotonic_ns()
        if len(self._paths) > _MOST:
            self._paths.clear()
        waiting = [""]
        while waiting:
            path = waiting.pop()
            try:
                with os.scandir(self._root + path) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            below = f"{path}/{entry.name}"
                            self._paths[entry.inode()] = below
                            waiting.append(below)
            except OSError:
                continue
        now = time.monotonic_ns()
        self._due_ns = now + max(_PAUSE_NS, _SHARE * (now - started))


class CgroupOwners:
    """Entries of an OwnerTable for cgroups: a container, a Pod or a unit without any process.

    ``root`` is the mount point of cgroup v2, or '' if ids of cgroups must not be used.
    """

    def __init__(self, owners: OwnerTable, root: str) -> None:
        self._owners = owners
        self._paths = CgroupPaths(root) if root else None
        self._node = os.uname().nodename
        self._indices: dict[str, int] = {}

    def index(self, cgroup_id: int) -> int:
        """Returns the owner's index, 0 if the cgroup names no container, Pod or unit."""
        path = self._paths.find(cgroup_id) if self._paths and cgroup_id else ""
        if path in self._indices:
            return self._indices[path]
        owner = owner_of_cgroup(path, self._node, count_delegated(path))
        tells = bool(owner.container.id or owner.pod.uid or owner.unit)
        self._indices[path] = index = self._owners.add(owner) if tells else 0
        return index

    def sweep(self, in_use: Collection[int]) -> list[int]:
        """Forgets owners that are not ``in_use`` any more, and returns their indices."""
        gone = [path for path, index in self._indices.items() if index not in in_use]
        released = [index for index in map(self._indices.pop, gone) if index]
        for index in released:
            self._owners.release(index)
        return released
