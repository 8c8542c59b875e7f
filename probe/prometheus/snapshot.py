"""All that a scrape tells, as plain copies of one moment; made by the loop's thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from probe.figures import Figures
from probe.interfaces.interface import Interface
from probe.prometheus.traffic import ContainerLabels, ContainerTraffic


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``interfaces`` begin with those that are gone since the last scrape.

    ``containers`` has the values of ``traffic.COLUMNS`` for each container.
    """

    figures: Figures
    interfaces: Sequence[Interface] = ()
    containers: Mapping[ContainerLabels, tuple[int, ...]] = field(default_factory=dict)
    folded_records: int = 0


def take_snapshot(
    figures: Figures, interfaces: Sequence[Interface], traffic: ContainerTraffic
) -> Snapshot:
    """Returns what a scrape is answered with."""
    return Snapshot(figures, interfaces, traffic.sums(), traffic.folded)
