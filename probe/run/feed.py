"""Sends open sockets and counters of interfaces to the sinks that take events."""

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
    """The feed of open sockets and counters of interfaces, for sinks that take events.

    The probe calls ``tick`` at every tick. It does nothing if there is no such sink.
    """

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
            from probe.sources.sockets import OpenSockets  # loads all of inet_diag

            self._sockets = OpenSockets(owners, users, command_lines)

    def tick(self, now: float) -> None:
        """Sends what is due at ``now`` (monotonic seconds)."""
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
        """Sends the last counters of links that have gone since the last tick."""
        if self._sockets is not None:
            self._tell_links([])

    def _tell_links(self, links: list[Interface]) -> None:
        """Sends ``links``, and those that are gone at once: the probe may be about to stop."""
        if told := [*self._read_ended(), *links]:
            self._exporter.send_interfaces(told, time.time())

    def owners_in_use(self) -> set[int]:
        """Returns the owners of sockets that wait for a name."""
        return self._chosen.owners_in_use()

    def sweep_owners(self) -> list[int]:
        """Forgets owners without a process or an open socket. Returns their indices."""
        return self._sockets.sweep_owners() if self._sockets else []

    def close(self) -> None:
        if self._sockets:
            self._sockets.close()


class ChosenSockets:
    """The selection of open sockets by the rules for flows, made once containers have names."""

    def __init__(self, chosen: FlowFilter, owners: ContainerOwners) -> None:
        self._rules, self._owners = chosen, owners
        self._waiting: Rows = np.zeros(0, SOCKET_DTYPE)
        self._told = np.zeros(0, np.uint64)  # keys of open sockets that were sent

    def choose(self, changes: Rows, nameless: NDArray[np.int64]) -> Rows:
        """Returns the ``changes`` (SOCKET_DTYPE) to send now.

        The end of a socket is sent only if the socket itself was. Sockets of ``nameless`` owners
        wait for a later call.
        """
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
    """Returns a key for each socket of this host.

    The key has the namespace too, since cookies are unique across namespaces only from Linux 5.3.
    """
    inode: NDArray[np.uint64] = sockets["netns_inode"].astype(np.uint64)
    cookie: NDArray[np.uint64] = sockets["cookie"]
    return (inode << np.uint64(48)) | cookie
