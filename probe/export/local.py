"""A destination within this process: a view, or the program that uses ``probe.api``."""

from __future__ import annotations

from probe.export.transports.statistics import SendStatistics
from probe.flow.rows import Rows


class LocalSink:
    """A Sink that is always reachable and queues nothing.

    A subclass overrides ``send`` and ``summary``. It is an EventSink if it has the methods of one.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.statistics = SendStatistics()
        self.is_down = False
        self.is_reliable = True
        self.backlog = 0
        self.takes_events = True  # if there is a send_events

    def send(self, records: Rows, now_s: float) -> None:
        raise NotImplementedError

    def summary(self) -> str:
        raise NotImplementedError

    def pump(self, now: float) -> float | None:
        return None

    def finish(self, now_s: float) -> None:
        """Does nothing: no output belongs at the end."""

    def forget(self, owners: list[int]) -> None:
        """Does nothing: no encoded owner is kept."""

    def announce_interfaces(self) -> None:
        """Does nothing: this sink does not describe interfaces."""

    def local_address(self) -> tuple[str, int] | None:
        return None

    def flush(self, deadline: float) -> bool:
        return True

    def close(self) -> None:
        """Does nothing: no records wait."""
