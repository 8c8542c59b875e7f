"""What ``sockflow run`` does without a destination.

Any local user may send datagrams to a port of the loopback, and what is shown here is believed. So
the collector and the exporter are connected to each other, which lets nobody else in.
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
    """The built-in collector and its view. It hears nobody before ``follow``."""

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
        """Hear the exporter that sends from the address that this tells, now and later."""
        self._exporter = exporter
        self._hear_exporter()

    def read(self) -> bool:
        """Show some of the messages that wait; False when there was nothing to show."""
        records = self.source.read()
        self.flows.observe(records, time.time())
        return bool(records)

    def refresh(self) -> None:
        self._hear_exporter()
        self._view = self._view or open_view(self.flows)  # not before the probe could start
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
