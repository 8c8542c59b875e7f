"""Lists sockets without a peer: TCP in LISTEN, and UDP, of all network namespaces.

They make no flows, and are only shown. inet_diag lists them no matter which collector meters, so
any user may list them, and sees as much as the Netlink collector would.
"""

from __future__ import annotations

import logging
import time

import numpy as np

from probe.flow.codes import OwnerSource
from probe.flow.columns import SOCKET_DTYPE
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows
from probe.netlink.inet_diag import CLOSE, LISTEN, TCP, UDP, Sockets, find_attributes
from probe.netlink.sock_diag import Buffer, Namespace
from probe.owners.descriptors import DescriptorSearch
from probe.owners.process import read_command_line
from probe.owners.users import Users
from probe.sources.netlink.namespaces import Namespaces
from probe.sources.netlink.owners import ProcessOwners

log = logging.getLogger(__name__)

_SHARE = 100  # at most one per cent of one core
_BUDGET_NS = 20_000_000  # for descriptors in one call
_MOST_WAITS = 3  # calls that a socket waits for its owner
_WANTED = ((TCP, LISTEN), (UDP, CLOSE))
#: A socket, its key (unique on the host), and in how many calls its owner was sought.
_OPEN = np.dtype([("told", SOCKET_DTYPE), ("key", "u8"), ("inode", "u4"), ("waits", "u4")])


class OpenSockets:
    """Lists changes. It keeps no descriptor between two calls, so it keeps no namespace alive.

    owners: the table that the rows' ``owner`` column will index. users: finds names of users and
    groups. budget_ns: time for the search of owners in one call; the search goes on in later calls.
    """

    def __init__(
        self,
        owners: OwnerTable,
        users: Users,
        command_lines: bool = False,
        budget_ns: int = _BUDGET_NS,
    ) -> None:
        self.unseen_namespaces = 0
        self._buffer = Buffer()
        self._search = DescriptorSearch()
        self._processes = ProcessOwners(
            owners, users, read_command_line if command_lines else _no_command_line
        )
        self._budget_ns = budget_ns
        self._due_ns = 0
        self._known: Rows = np.zeros(0, _OPEN)  # sockets that callers know
        self._waiting: Rows = np.zeros(0, _OPEN)  # sockets whose owner is still sought

    @property
    def unreadable_processes(self) -> int:
        """Returns how many processes have unreadable descriptors, as of the latest search."""
        return self._search.unreadable

    def changes(self) -> Rows:
        """Returns SOCKET_DTYPE: new sockets, then those that left, with ``gone``.

        It covers the time since the last call, and is empty if another look is not due yet.
        """
        if time.monotonic_ns() < self._due_ns:
            return np.zeros(0, SOCKET_DTYPE)
        started = time.process_time_ns()
        spaces = Namespaces(_leave_nothing, has_events=False)
        try:
            told = self._look(spaces)
        except OSError as error:
            log.debug("open sockets: %s", error)
            told = np.zeros(0, SOCKET_DTYPE)
        finally:
            spaces.close()
        self._due_ns = time.monotonic_ns() + _SHARE * (time.process_time_ns() - started)
        return told

    def sweep_owners(self) -> list[int]:
        """Forgets owners whose process ended and that no socket has; returns their indices."""
        return self._processes.sweep(set(self._known["told"]["owner"].tolist()))

    def close(self) -> None:
        """Forgets all sockets."""
        self._known = self._waiting = np.zeros(0, _OPEN)

    # -- one look ---------------------------------------------------------------------------------
    def _look(self, spaces: Namespaces) -> Rows:
        spaces.open_own()
        spaces.refresh(is_new=False)
        self.unseen_namespaces = spaces.unseen_count
        found, answered = self._read(spaces)
        came = found[~np.isin(found["key"], self._known["key"])]
        absent = ~np.isin(self._known["key"], found["key"])
        silent = [inode for inode in spaces.processes.by_inode if inode not in answered]
        absent &= ~np.isin(self._known["told"]["netns_inode"], silent)
        left = self._known["told"][absent]
        left["gone"] = 1
        settled = self._own(came, spaces)
        self._known = np.concatenate([self._known[~absent], settled])
        return np.concatenate([settled["told"], left])

    def _read(self, spaces: Namespaces) -> tuple[Rows, set[int]]:
        """Returns all sockets without a peer, and the inodes of namespaces that answered."""
        parts: list[Rows] = [np.zeros(0, _OPEN)]
        answered: set[int] = set()
        for inode, namespace in spaces.entered.items():
            try:
                there = [
                    _describe(self._dump(namespace, protocol, state), inode, protocol)
                    for protocol, state in _WANTED
                ]
            except OSError as error:
                self._buffer.take()
                log.debug("open sockets of network namespace %d: %s", inode, error)
            else:
                parts += there
                answered.add(inode)
        return np.concatenate(parts), answered

    def _dump(self, namespace: Namespace, protocol: int, state: int) -> Sockets:
        parts: list[Sockets] = []
        for _ in namespace.dump(self._buffer, 0, 1 << state, protocol):
            messages = find_attributes(self._buffer.words, *self._buffer.take())
            parts.append(messages.decode(np.arange(len(messages))))
        found: Sockets = np.concatenate(parts)
        chosen: Sockets = found[(found["state"] == state) & (found["local_port"] > 0)]
        return chosen

    # -- owners -----------------------------------------------------------------------------------
    def _own(self, came: Rows, spaces: Namespaces) -> Rows:
        """Returns those of ``came`` whose owner is known, or was sought long enough.

        The others wait for the next call.
        """
        waited = dict(
            zip(self._waiting["key"].tolist(), self._waiting["waits"].tolist(), strict=True)
        )
        came["waits"] = [waited.get(key, 0) + 1 for key in came["key"].tolist()]
        found = self._search_holders(came["inode"].tolist(), spaces)
        owners = [found.get(inode, 0) for inode in came["inode"].tolist()]
        told = came["told"]
        told["owner"] = owners
        told["owner_source"] = np.where(told["owner"], OwnerSource.DESCRIPTOR, 0)
        settled = (told["owner"] > 0) | (came["waits"] >= _MOST_WAITS) | (came["inode"] == 0)
        settled |= np.isin(came["inode"], list(self._search.given_up))
        self._search.given_up.clear()
        asked = {*self._waiting["inode"].tolist(), *came["inode"].tolist()}
        self._waiting = came[~settled]
        self._search.forget(asked - set(self._waiting["inode"].tolist()))
        ready: Rows = came[settled]
        return ready

    def _search_holders(self, inodes: list[int], spaces: Namespaces) -> dict[int, int]:
        """Returns socket inode -> owner index."""
        present = spaces.processes.by_inode.values()
        where = [pid for pids in present for pid in pids] + spaces.processes.closed
        found = self._search.search(filter(None, inodes), where, self._budget_ns)
        return {inode: self._processes.index(pid) for inode, pid in found.items()}


def _describe(sockets: Sockets, inode: int, protocol: int) -> Rows:
    """Returns the rows of sockets; ``inode`` is that of their network namespace."""
    rows: Rows = np.zeros(len(sockets), _OPEN)
    # before Linux 5.3, cookies are unique within a namespace only
    rows["key"] = sockets["cookie"] | np.uint64((inode & 0xFFFF) << 48)
    rows["inode"] = sockets["inode"]
    told = rows["told"]
    for name in ("cookie", "receive_queue", "local_port", "ip_version"):
        told[name] = sockets[name]
    told["local_address"] = np.ascontiguousarray(sockets["local"]).view(np.uint8).reshape(-1, 16)
    told["tcp_state"], told["protocol"], told["netns_inode"] = sockets["state"], protocol, inode
    return rows


def _leave_nothing(_: Namespace) -> None:
    """Does nothing, because no events were asked for."""


def _no_command_line(_: int) -> str:
    return ""
