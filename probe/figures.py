"""Holds the counts of all parts of a probe at one moment, as plain values.

The loop's thread makes ``Figures`` (``Probe.figures``). The summary of a run, Prometheus, and the
exporter's reports about itself read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_NO_COUNTS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class DestinationFigures:
    """The counts of one destination since the start.

    ``name`` is unique among destinations. ``is_up`` is False while the destination is known to be
    unreachable. ``summary`` is its line at the end of the run.
    """

    name: str
    messages: int
    octets: int
    records: int
    dropped_messages: int
    dropped_records: int
    errors: int
    queued_octets: int
    is_up: bool
    summary: str = ""


@dataclass(frozen=True, slots=True)
class FailedPart:
    """A part of the probe that its own error has ended."""

    name: str
    error: str
    is_destination: bool = False


@dataclass(frozen=True, slots=True)
class DurationFigures:
    """A histogram of durations, with their sum in seconds.

    ``counts`` has one number for each bound of ``probe.prometheus.durations.BOUNDS_S``, and one for
    longer durations.
    """

    counts: tuple[int, ...] = ()
    sum_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """The counts of all parts since the start, which are zero before metering begins.

    ``losses`` count data that was lost before it became a Flow Record. ``notices`` count data that
    came late or with less detail. Both are by cause (``probe.run.causes``).
    ``own_*`` count traffic of the probe itself, and ``excluded_*`` traffic that filters left out.
    """

    source: str = ""
    flows: int = 0
    records: int = 0
    packets: int = 0
    octets: int = 0
    own_packets: int = 0
    own_octets: int = 0
    excluded_rows: int = 0
    excluded_flows: int = 0
    excluded_packets: int = 0
    excluded_octets: int = 0
    forgotten_flows: int = 0
    cache_flows: int = 0
    cache_limit: int = 0
    waiting_records: int = 0
    agent_deaths: int = 0
    losses: Mapping[str, int] = field(default_factory=lambda: _NO_COUNTS)
    notices: Mapping[str, int] = field(default_factory=lambda: _NO_COUNTS)
    destinations: tuple[DestinationFigures, ...] = ()
    failed_parts: tuple[FailedPart, ...] = ()
    ticks: DurationFigures = DurationFigures()
    tick_delays: DurationFigures = DurationFigures()
