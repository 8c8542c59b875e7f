"""What ``sockflow run`` does without a destination."""

from __future__ import annotations

import os
import time

from probe.collect import CollectorSocket
from probe.view.flows import FlowTable
from probe.view.screen import View, open_view


class Shown:
    """The built-in collector and its view."""

    def __init__(self, pen: int) -> None:
        self.source = CollectorSocket("127.0.0.1", 0, pen)
        self.flows = FlowTable()
        self._view: View | None = None

    @property
    def destination(self) -> str:
        return f"ipfix://127.0.0.1:{self.source.address[1]}"

    def read(self) -> bool:
        """Show some of the messages that wait; False when there was nothing to show."""
        records = self.source.read()
        self.flows.observe(records, time.time())
        return bool(records)

    def refresh(self) -> None:
        self._view = self._view or open_view(self.flows)  # not before the probe could start
        counted = self.source.process.statistics
        self._view.refresh(
            f"sockflow on {os.uname().nodename}: {len(self.flows)} flows, "
            f"{counted.records} IPFIX records in {counted.messages} messages"
        )

    def close(self) -> None:
        if self._view:
            self.refresh()
            self._view.close()
        self.source.close()
