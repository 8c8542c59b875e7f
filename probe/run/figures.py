"""Makes ``Figures`` from the parts of a probe, in the thread of its loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from probe.enrich.nat import Nat
from probe.figures import DestinationFigures, FailedPart, Figures
from probe.flow.cache import FlowCache
from probe.flow.rows import Rows
from probe.guard import Guard
from probe.interfaces.table import InterfaceTable
from probe.sources.source import Source

if TYPE_CHECKING:
    from probe.run.outlet import Outlet


@dataclass(slots=True)
class Exported:
    """The sums over all records that left the cache, which are the same for all destinations."""

    records: int = 0
    packets: int = 0
    octets: int = 0

    def count(self, records: Rows) -> None:
        self.records += len(records)
        self.packets += int(records["packets"].sum())
        self.octets += int(records["octets"].sum())


class ReadFigures:
    """A source of figures for destinations, which are opened before the probe exists.

    All figures are zero until ``read`` is replaced by the probe's.
    """

    def __init__(self) -> None:
        self.read: Callable[[], Figures] = Figures

    def figures(self) -> Figures:
        return self.read()


class CauseCounts:
    """The counts of losses and notices while metering, by cause."""

    def __init__(
        self, source: Source, cache: FlowCache, links: InterfaceTable, nat: Nat | None
    ) -> None:
        self._source, self._cache, self._links, self._nat = source, cache, links, nat
        self._of_source: dict[str, int] = {}
        self._is_closed = False

    def read(self) -> dict[str, int]:
        """Returns all counts. A source that failed or is closed keeps its latest counts."""
        if not self._is_closed:
            with contextlib.suppress(Exception):
                self._of_source = self._source.losses()
        counts = {
            **self._of_source,
            "packets_after_end": self._cache.lost_packets,
            "late_packets": self._cache.late_packets - self._cache.lost_packets,
            "flows_evicted": self._cache.evicted,
            "ended_interfaces_untold": self._links.ended.untold,
        }
        if self._nat:
            asked = self._nat.statistics
            counts["nat_not_looked_up"] = asked.skipped
            counts["nat_unread"] = asked.unread + asked.errors
        return counts

    def close(self) -> None:
        """Reads the counts of the source for the last time."""
        self.read()
        self._is_closed = True


def destination_figures(outlets: Sequence[Outlet]) -> Iterator[DestinationFigures]:
    """Yields the figures of each outlet. The second one of a name gets the suffix '#2'."""
    names: list[str] = []
    for outlet in outlets:
        names.append(outlet.name)
        twin = names.count(outlet.name)
        sent = outlet.statistics
        yield DestinationFigures(
            name=f"{outlet.name}#{twin}" if twin > 1 else outlet.name,
            messages=sent.sent_messages,
            octets=sent.sent_octets,
            records=sent.sent_records,
            dropped_messages=sent.dropped_messages,
            dropped_records=sent.dropped_records,
            errors=sent.errors,
            queued_octets=outlet.backlog,
            is_up=not outlet.is_down,
            summary=f"{outlet.name}: {outlet.summary()}",
        )


def failed_parts(guard: Guard, outlets: Sequence[Outlet]) -> Iterator[FailedPart]:
    """Yields the parts that an error has ended, in the order in which they were made."""
    destinations = [outlet.part for outlet in outlets]
    for part in guard.failed:
        yield FailedPart(part.name, part.error, part in destinations)
