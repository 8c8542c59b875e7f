"""Cgroups by the ids that sockets carry: who has a socket whose process is not to be seen.

Only cgroup v2 gives sockets ids, which are the inodes of its directories, and any user may read
those. On hosts whose containers are in a v1 hierarchy the id says nothing of them, and is ignored.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection

from probe.flow.owner import OwnerTable
from probe.owners.container import owner_of_cgroup
from probe.owners.procfs import count_delegated

_SHARE = 200  # looking takes at most half a per cent of one core
_PAUSE_NS = 1_000_000_000
_MOST = 65536


class CgroupPaths:
    """Path by id, '' where there is no such cgroup. ``root``: where cgroup v2 is mounted."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._paths: dict[int, str] = {}
        self._due_ns = 0

    def find(self, cgroup_id: int) -> str:
        """The cgroup's path, also of one that was there at the latest look and is gone."""
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
    """Cgroups as entries of an OwnerTable: a container, a Pod or a unit without any process.

    ``root``: where cgroup v2 is mounted, '' where ids of sockets must not be asked for.
    """

    def __init__(self, owners: OwnerTable, root: str) -> None:
        self._owners = owners
        self._paths = CgroupPaths(root) if root else None
        self._node = os.uname().nodename
        self._indices: dict[str, int] = {}

    def index(self, cgroup_id: int) -> int:
        """0 where the cgroup names neither a container nor a Pod nor a unit."""
        path = self._paths.find(cgroup_id) if self._paths and cgroup_id else ""
        if path in self._indices:
            return self._indices[path]
        owner = owner_of_cgroup(path, self._node, count_delegated(path))
        tells = bool(owner.container.id or owner.pod.uid or owner.unit)
        self._indices[path] = index = self._owners.add(owner) if tells else 0
        return index

    def sweep(self, in_use: Collection[int]) -> list[int]:
        """Forgets what nothing names; the indices."""
        gone = [path for path, index in self._indices.items() if index not in in_use]
        released = [index for index in map(self._indices.pop, gone) if index]
        for index in released:
            self._owners.release(index)
        return released
