"""Copies all values of a scrape at one moment, in the loop's thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from probe.figures import Figures
from probe.interfaces.interface import Interface
from probe.prometheus.traffic import ContainerLabels, ContainerTraffic


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The values of one scrape.

    ``interfaces`` begin with those that have gone since the last scrape. ``containers`` has the
    values of ``traffic.COLUMNS`` for each container.
    """

    figures: Figures
    interfaces: Sequence[Interface] = ()
    containers: Mapping[ContainerLabels, tuple[int, ...]] = field(default_factory=dict)
    folded_records: int = 0


def take_snapshot(
    figures: Figures, interfaces: Sequence[Interface], traffic: ContainerTraffic
) -> Snapshot:
    """Returns the values for the answer to a scrape."""
    return Snapshot(figures, interfaces, traffic.sums(), traffic.folded)
