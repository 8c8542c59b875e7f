"""What sinks of events are told beside flows and events: open sockets, counters of interfaces."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from probe.flow.owner import OwnerTable
from probe.interfaces.table import Link
from probe.metadata.users import UserNames

if TYPE_CHECKING:
    from probe.collectors.sockets import OpenSockets
    from probe.exporting import Exporter

_SOCKETS_S = 3.0


class Feed:
    """``tick`` is to be called at every tick; does nothing where no sink takes events."""

    def __init__(
        self,
        exporter: Exporter,
        owners: OwnerTable,
        command_lines: bool,
        read_links: Callable[[], list[Link]],
        interface_interval_s: float,
    ) -> None:
        self._exporter = exporter
        self._read_links = read_links
        self._interval_s = interface_interval_s
        self._sockets: OpenSockets | None = None
        self._sockets_at = self._links_at = 0.0
        if exporter.event_sinks:
            from probe.collectors.sockets import OpenSockets  # and all of inet_diag

            self._sockets = OpenSockets(owners, UserNames(), command_lines)

    def tick(self, now: float) -> None:
        """``now``: monotonic seconds."""
        if self._sockets is None:
            return
        if now >= self._sockets_at:
            self._sockets_at = now + _SOCKETS_S
            self._exporter.send_sockets(self._sockets.changes(), time.time())
        if now >= self._links_at:
            self._links_at = now + self._interval_s
            self._exporter.send_interfaces(self._read_links(), time.time())

    def sweep_owners(self) -> list[int]:
        """Owners that only sockets had, and that are gone."""
        return self._sockets.sweep_owners() if self._sockets else []

    def close(self) -> None:
        if self._sockets:
            self._sockets.close()
