"""Finds the owners of sockets with traffic, and writes them into the ledger.

Theory of operation. Each ``find`` searches descriptors for the owners of the sockets with new
traffic, in a bounded time. The search goes on in the next call. A socket that a whole
round through all processes does not show is given up for 30 seconds. If the socket is younger than
the latest look at processes, it waits for the next look instead.

Sockets without a process get the owner of their listener, or else that of their cgroup.
"""

from __future__ import annotations

import time

import numpy as np

from probe.flow.codes import OwnerSource, Role
from probe.flow.key_index import distinct
from probe.flow.rows import Rows, Slots
from probe.owners.cgroups import CgroupOwners
from probe.owners.descriptors import DescriptorSearch
from probe.sources.netlink.ledger import Ledger
from probe.sources.netlink.namespaces import Namespaces
from probe.sources.netlink.owners import Listeners, ProcessOwners

#: Time for descriptors in one read. To list those of all processes takes some milliseconds.
_BUDGET_NS = 10_000_000
_RETRY_NS = 30_000_000_000
_MOST_GIVEN_UP = 65536
_MOST_LIKELY = 64  # processes to look at before the round goes on
_MOST_WANTED = 8192  # more than a read can find; others follow at their next traffic


class Attribution:
    """Finds owners; ``unreadable`` counts sockets not found while some processes are unreadable."""

    def __init__(
        self,
        ledger: Ledger,
        listeners: Listeners,
        processes: ProcessOwners,
        cgroups: CgroupOwners,
        spaces: Namespaces,
    ) -> None:
        self.unreadable = 0
        self.search = DescriptorSearch()
        self._ledger = ledger
        self._listeners = listeners
        self._processes = processes
        self._cgroups = cgroups
        self._spaces = spaces
        self._wanted: dict[int, int] = {}  # inode -> slot
        self._given_up: dict[int, int] = {}  # inode -> time of the next attempt
        self._came_ns: dict[int, int] = {}  # inode -> time of the first attempt
        self._early: dict[int, int] = {}  # inode -> slot, for a later look at processes

    def find(self, slots: Slots, budget_ns: int = _BUDGET_NS) -> Slots:
        """Looks for owners of ``slots``, and of sockets left from earlier calls.

        Returns the slots whose process was found.
        """
        ledger, now = self._ledger, time.monotonic_ns()
        wanting = ledger.unowned(slots, OwnerSource.DESCRIPTOR)
        wanting = wanting[: max(0, _MOST_WANTED - len(self._wanted))]
        inodes = ledger.seen["inode"][wanting].tolist()
        fresh = {inode: slot for inode, slot in zip(inodes, wanting.tolist(), strict=True)
                 if self._given_up.get(inode, 0) <= now}  # fmt: skip
        fresh |= self._take_early()
        self._wanted |= fresh
        listening = self._listeners.wanted()
        asked = [inode for inode in listening if self._given_up.get(inode, 0) <= now]
        for inode in (*asked, *fresh):
            self._came_ns.setdefault(inode, now)
        first, rest = self._processes_near(listening, wanting)
        likely = first if len(first) <= _MOST_LIKELY else []
        found = self.search.search([*asked, *fresh], first + rest, budget_ns, likely)
        owners = {inode: self._processes.index(pid) for inode, pid in found.items()}
        for inode in found:
            self._came_ns.pop(inode, None)
        self._listeners.attribute(owners)
        self._give_up(now)
        owned = self._own(owners)
        self._own_by_listener(wanting)
        self._own_by_cgroup(slots)
        return owned

    def own_ended(self, rows: Rows, number: int) -> None:
        """Gives accepted connections the owner of their listener if no dump saw them alive."""
        for at in np.flatnonzero((rows["owner"] == 0) & (rows["role"] == Role.RESPONDER)).tolist():
            owner = self._listeners.owner_of(number, int(rows["local_port"][at]))
            if owner:
                rows["owner"][at], rows["owner_source"][at] = owner, OwnerSource.LISTENER

    def _own(self, owners: dict[int, int]) -> Slots:
        ledger = self._ledger
        slots = [(self._wanted.pop(inode), inode, owner) for inode, owner in owners.items()
                 if inode in self._wanted and owner]  # fmt: skip
        owned = [slot for slot, inode, _ in slots if ledger.seen["inode"][slot] == inode]
        for slot, inode, owner in slots:
            if ledger.seen["inode"][slot] == inode:
                ledger.own(slot, owner, OwnerSource.DESCRIPTOR)
        return np.array(owned, np.int64)

    def _own_by_listener(self, slots: Slots) -> None:
        rows, seen = self._ledger.rows, self._ledger.seen
        nobody = slots[(rows["owner"][slots] == 0) & (rows["role"][slots] == Role.RESPONDER)]
        for slot in nobody.tolist():
            number, port = int(seen["namespace"][slot]), int(rows["local_port"][slot])
            if owner := self._listeners.owner_of(number, port):
                self._ledger.own(slot, owner, OwnerSource.LISTENER)

    def _own_by_cgroup(self, slots: Slots) -> None:
        rows, seen = self._ledger.rows, self._ledger.seen
        nobody = slots[rows["owner"][slots] == 0]
        cgroups = seen["cgroup"][nobody]
        for cgroup in distinct(cgroups).tolist():
            if owner := self._cgroups.index(cgroup):
                self._ledger.own(nobody[cgroups == cgroup], owner, OwnerSource.CGROUP)

    def _give_up(self, now_ns: int) -> None:
        for inode in self.search.given_up:
            slot = self._wanted.pop(inode, 0)
            if self._came_ns[inode] > self._spaces.looked_ns:
                if slot:
                    self._early[inode] = slot
                continue
            del self._came_ns[inode]
            if self.search.unreadable and slot and self._ledger.seen["inode"][slot] == inode:
                self.unreadable += 1
            self._given_up[inode] = now_ns + _RETRY_NS
        self.search.given_up.clear()
        while len(self._given_up) > _MOST_GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]

    def _take_early(self) -> dict[int, int]:
        """Returns sockets that are older than the latest look at processes by now."""
        looked = self._spaces.looked_ns
        ready = {inode: slot for inode, slot in self._early.items()
                 if self._came_ns[inode] <= looked}  # fmt: skip
        for inode in ready:
            del self._early[inode]
        return ready

    def _processes_near(
        self, listening: dict[int, int], wanting: Slots
    ) -> tuple[list[int], list[int]]:
        """Returns the processes in the namespaces of the sockets, and all others."""
        numbers = {*listening.values(), *self._ledger.seen["namespace"][wanting].tolist()}
        inodes = [inode for inode, one in self._spaces.entered.items() if one.number in numbers]
        present = self._spaces.processes.by_inode
        first = [pid for inode in inodes for pid in present.get(inode, ())]
        rest = [pid for inode, pids in present.items() if inode not in inodes for pid in pids]
        return first, rest + self._spaces.processes.closed
