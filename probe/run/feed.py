"""What sinks of events are told beside flows and events: open sockets, counters of interfaces."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from probe.enrich.container_owners import ContainerOwners
from probe.flow.columns import SOCKET_DTYPE
from probe.flow.filter import FlowFilter
from probe.flow.rows import Rows
from probe.interfaces.interface import Interface
from probe.owners.users import Users

if TYPE_CHECKING:
    from probe.run.exporter import Exporter
    from probe.sources.sockets import OpenSockets

_SOCKETS_S = 3.0


class Feed:
    """``tick`` is to be called at every tick; does nothing where no sink takes events."""

    def __init__(
        self,
        exporter: Exporter,
        owners: ContainerOwners,
        users: Users,
        command_lines: bool,
        read_links: Callable[[], list[Interface]],
        interface_interval_s: float,
        chosen: FlowFilter | None = None,
        read_ended: Callable[[], list[Interface]] = list,
    ) -> None:
        self._exporter = exporter
        self._owners = owners
        self._read_links, self._read_ended = read_links, read_ended
        self._interval_s = interface_interval_s
        self._sockets: OpenSockets | None = None
        self._chosen = ChosenSockets(chosen or FlowFilter(), owners)
        self._sockets_at = self._links_at = 0.0
        if exporter.event_sinks:
            from probe.sources.sockets import OpenSockets  # and all of inet_diag

            self._sockets = OpenSockets(owners, users, command_lines)

    def tick(self, now: float) -> None:
        """``now``: monotonic seconds."""
        if self._sockets is None:
            return
        if now >= self._sockets_at:
            self._sockets_at = now + _SOCKETS_S
            changes = self._sockets.changes()
        else:
            changes = np.zeros(0, SOCKET_DTYPE)
        told = self._chosen.choose(changes, self._owners.nameless(now))
        if len(told):
            self._exporter.send_sockets(told, time.time())
        links: list[Interface] = []
        if now >= self._links_at:
            self._links_at = now + self._interval_s
            links = self._read_links()
        self._tell_links(links)

    def finish(self) -> None:
        """The last counters of links that were gone since the last tick."""
        if self._sockets is not None:
            self._tell_links([])

    def _tell_links(self, links: list[Interface]) -> None:
        """Those that are gone at once: who is told of them may be about to stop."""
        if told := [*self._read_ended(), *links]:
            self._exporter.send_interfaces(told, time.time())

    def owners_in_use(self) -> set[int]:
        """Owners of sockets that wait to be told."""
        return self._chosen.owners_in_use()

    def sweep_owners(self) -> list[int]:
        """Owners that only sockets had, and that are gone."""
        return self._sockets.sweep_owners() if self._sockets else []

    def close(self) -> None:
        if self._sockets:
            self._sockets.close()


class ChosenSockets:
    """Open sockets by the rules for flows, told once their container has its name."""

    def __init__(self, chosen: FlowFilter, owners: ContainerOwners) -> None:
        self._rules, self._owners = chosen, owners
        self._waiting: Rows = np.zeros(0, SOCKET_DTYPE)
        self._told = np.zeros(0, np.uint64)  # keys of those that are open

    def choose(self, changes: Rows, nameless: NDArray[np.int64]) -> Rows:
        """Of SOCKET_DTYPE that came or went what is told now. A socket's end is told if the
        socket was."""
        if not len(changes) and not len(self._waiting):
            return changes
        left = changes[changes["gone"] != 0]
        came = np.concatenate([self._waiting, changes[changes["gone"] == 0]])
        came = came[~np.isin(_keys(came), _keys(left))]
        waits = np.isin(came["owner"], nameless)
        self._waiting = came[waits]
        came = self._rules.select_sockets(came[~waits], self._owners)
        left = left[np.isin(_keys(left), self._told)]
        still = self._told[~np.isin(self._told, _keys(left))]
        self._told = np.concatenate([still, _keys(came)])
        return np.concatenate([came, left])

    def owners_in_use(self) -> set[int]:
        return set(self._waiting["owner"].tolist())


def _keys(sockets: Rows) -> NDArray[np.uint64]:
    """Of a socket on this host; cookies are unique among namespaces since Linux 5.3 only."""
    inode: NDArray[np.uint64] = sockets["netns_inode"].astype(np.uint64)
    cookie: NDArray[np.uint64] = sockets["cookie"]
    return (inode << np.uint64(48)) | cookie
