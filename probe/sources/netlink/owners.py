"""Keeps the owners of sockets: processes, and listeners for connections without a process.

Owners are sought only for sockets with traffic, in a bounded time per read.
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

_SWEEP_ABOVE = 8192  # as many owners are kept without a sweep


class ProcessOwners:
    """Processes as entries of an OwnerTable, one for each identity."""

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
        """Returns the owner's index, 0 if the process is gone."""
        identity = read_identity(pid)
        if identity is None:
            return 0
        index = self._indices.get(identity)
        if index is None:
            owner = owner_from_proc(identity, self._users, self._command_line, self._node)
            index = self._indices[identity] = self._owners.add(owner)
        return index

    def sweep(self, in_use: Collection[int]) -> list[int]:
        """Forgets owners whose process ended and that nothing names; returns their indices."""
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
    """The listening ports of all namespaces, with their owners.

    The key holds the number of a namespace and a port.
    """

    def __init__(self) -> None:
        self._found: dict[int, _Listener] = {}
        self._seen: set[int] = set()
        self._keys = np.zeros(0, np.int64)

    def begin(self) -> None:
        self._seen.clear()

    def observe(self, sockets: Sockets) -> None:
        """Notes LISTEN sockets of a dump; one stands for all on a port (SO_REUSEPORT)."""
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
        """Forgets ports that the dumps of these namespaces did not show any more."""
        gone = [key for key in self._found if key >> 16 in numbers and key not in self._seen]
        for key in gone:
            del self._found[key]
        if gone:
            self._keys = np.array(sorted(self._found), np.int64)

    def forget(self, number: int) -> None:
        """Forgets the ports of a namespace that was left."""
        self._seen = {key for key in self._seen if key >> 16 != number}
        self.finish([number])

    def have(self, sockets: Sockets) -> Flags:
        """Returns True for sockets whose local port has a listener."""
        if not len(self._keys):
            return np.zeros(len(sockets), bool)
        keys = _listener_keys(sockets)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        found: Flags = self._keys[at] == keys
        return found

    def wanted(self) -> dict[int, int]:
        """Returns inode -> namespace number of the listeners without a known owner."""
        return {one.inode: key >> 16 for key, one in self._found.items() if not one.owner}

    def attribute(self, owners: dict[int, int]) -> None:
        """Sets the owners of listeners; ``owners`` maps socket inode to owner index."""
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
