"""Shows the flows of ``sockflow run`` without a destination, through the built-in collector.

Any local user can send datagrams to a port of the loopback, and users believe the view. So the
sockets of the collector and the exporter are connected to each other, which shuts out all others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from probe.collector import CollectorSocket
from probe.run.own_traffic import OwnSocket
from probe.view.flows import FlowTable
from probe.view.screen import View, open_view


class Shown:
    """The built-in collector and its view. It receives nothing before ``follow``."""

    def __init__(self, pen: int) -> None:
        self._exporter: Callable[[], Sequence[OwnSocket]] = tuple
        self.source = CollectorSocket("127.0.0.1", 0, pen)
        self.source.hear_only(self.source.address)
        self.flows = FlowTable()
        self._view: View | None = None

    @property
    def destination(self) -> str:
        return f"ipfix://127.0.0.1:{self.source.address[1]}"

    def follow(self, exporter: Callable[[], Sequence[OwnSocket]]) -> None:
        """Receives only from the addresses that ``exporter`` returns, now and at each refresh."""
        self._exporter = exporter
        self._hear_exporter()

    def read(self) -> bool:
        """Takes in some of the waiting messages. Returns False if there were no records."""
        records = self.source.read()
        self.flows.observe(records, time.time())
        return bool(records)

    def refresh(self) -> None:
        self._hear_exporter()
        self._view = self._view or open_view(self.flows)  # opened only after the probe has started
        counted = self.source.process.statistics
        self._view.refresh(
            f"sockflow on {os.uname().nodename}: {len(self.flows)} flows, "
            f"{counted.records} IPFIX records in {counted.messages} messages"
        )

    def _hear_exporter(self) -> None:
        for address, port, _ in self._exporter():
            self.source.hear_only((address, port))

    def close(self) -> None:
        if self._view:
            self.refresh()
            self._view.close()
        self.source.close()
