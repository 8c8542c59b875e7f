"""Owners of sockets: processes found by descriptor, listeners for connections that none shows.

Only sockets that had traffic are looked for, and for a bounded time per read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.flow.owner import OwnerTable
from probe.netlink.inet_diag import Sockets
from probe.owners.procfs import Identity, owner_from_proc, read_identity
from probe.owners.users import Users
from probe.sources.netlink.counters import Flags

_SWEEP_ABOVE = 8192  # owners kept without looking whether their process still lives


class ProcessOwners:
    """Processes as entries of an OwnerTable, one per identity."""

    def __init__(
        self,
        owners: OwnerTable,
        users: Users,
        command_line: Callable[[int], str],
    ) -> None:
        self._owners = owners
        self._users = users
        self._command_line = command_line
        self._node = os.uname().nodename
        self._indices: dict[Identity, int] = {}

    def index(self, pid: int) -> int:
        """0 when the process is gone."""
        identity = read_identity(pid)
        if identity is None:
            return 0
        index = self._indices.get(identity)
        if index is None:
            owner = owner_from_proc(identity, self._users, self._command_line, self._node)
            index = self._indices[identity] = self._owners.add(owner)
        return index

    def sweep(self, in_use: Collection[int]) -> list[int]:
        """Forgets owners that nothing names and whose process is gone; their indices."""
        if len(self._owners) <= _SWEEP_ABOVE:
            return []
        gone = [
            identity
            for identity, index in self._indices.items()
            if index not in in_use and read_identity(identity.pid) != identity
        ]
        released = [self._indices.pop(identity) for identity in gone]
        for index in released:
            self._owners.release(index)
        return released


@dataclass(slots=True)
class _Listener:
    inode: int
    owner: int = 0


class Listeners:
    """Listening ports of the namespaces, with their owners. Key: namespace number, port."""

    def __init__(self) -> None:
        self._found: dict[int, _Listener] = {}
        self._seen: set[int] = set()
        self._keys = np.zeros(0, np.int64)

    def begin(self) -> None:
        self._seen.clear()

    def observe(self, sockets: Sockets) -> None:
        """LISTEN sockets of a dump; of several on a port (SO_REUSEPORT) one stands for all."""
        sockets = sockets[np.argsort(sockets["inode"])]
        keys = _listener_keys(sockets).tolist()
        for key, inode in zip(keys, sockets["inode"].tolist(), strict=True):
            known = self._found.get(key)
            if key not in self._seen and (known is None or known.inode != inode):
                self._found[key] = _Listener(inode)
            self._seen.add(key)
        if len(self._found) != len(self._keys):
            self._keys = np.array(sorted(self._found), np.int64)

    def finish(self, numbers: Collection[int]) -> None:
        """After the dumps of those namespaces: who was not seen listens no more."""
        gone = [key for key in self._found if key >> 16 in numbers and key not in self._seen]
        for key in gone:
            del self._found[key]
        if gone:
            self._keys = np.array(sorted(self._found), np.int64)

    def forget(self, number: int) -> None:
        """A namespace that was left."""
        self._seen = {key for key in self._seen if key >> 16 != number}
        self.finish([number])

    def have(self, sockets: Sockets) -> Flags:
        """Whether something listens on the local port of each."""
        if not len(self._keys):
            return np.zeros(len(sockets), bool)
        keys = _listener_keys(sockets)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        found: Flags = self._keys[at] == keys
        return found

    def wanted(self) -> dict[int, int]:
        """Inodes of those whose owner is not known, and the numbers of their namespaces."""
        return {one.inode: key >> 16 for key, one in self._found.items() if not one.owner}

    def attribute(self, owners: dict[int, int]) -> None:
        """``owners``: socket inode -> owner index."""
        for listener in self._found.values():
            listener.owner = owners.get(listener.inode, listener.owner)

    def owner_of(self, number: int, port: int) -> int:
        listener = self._found.get(number << 16 | port)
        return listener.owner if listener else 0

    def owners(self) -> set[int]:
        return {listener.owner for listener in self._found.values()}


def _listener_keys(sockets: Sockets) -> NDArray[np.int64]:
    keys: NDArray[np.int64] = sockets["namespace"].astype(np.int64) << 16 | sockets["local_port"]
    return keys
