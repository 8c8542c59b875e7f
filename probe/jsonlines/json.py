"""Writes JSON lines to a file or to standard output: ``json:-``, ``json:///PATH``."""

from __future__ import annotations

from typing import Any

from probe.config import RunConfig
from probe.export.transports.destination import STDOUT, Destination
from probe.export.transports.lines import LineWriter
from probe.export.transports.statistics import SendStatistics
from probe.flow.owner import OwnerTable
from probe.jsonlines.sink import ObjectSink


class JsonSink(ObjectSink):
    """A sink of JSON lines. Raises ConfigError if the path cannot be written to."""

    def __init__(self, target: Destination, config: RunConfig, owners: OwnerTable) -> None:
        super().__init__(target, config, owners)
        self._output = LineWriter(target)

    @property
    def statistics(self) -> SendStatistics:
        return self._output.statistics

    @property
    def is_down(self) -> bool:
        return self._output.is_down

    @property
    def is_reliable(self) -> bool:
        return not self._output.is_down

    @property
    def backlog(self) -> int:
        return self._output.backlog

    def pump(self, now: float) -> float | None:
        return self._output.pump(now)

    @property
    def can_reopen(self) -> bool:
        return self._output.destination.path != STDOUT

    def reopen(self) -> None:
        """Continues in the file at the path, which is a new one after a log rotation."""
        self._output.reopen()

    def flush(self, deadline: float) -> bool:
        return self._output.flush(deadline)

    def close(self) -> None:
        self._output.close()

    def _put(
        self, lines: list[str], columns: dict[str, Any], packets: int = 0, octets: int = 0
    ) -> None:
        self._output.enqueue(lines, packets, octets)
