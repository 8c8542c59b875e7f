"""What the parts of a probe have counted, as plain values of one moment.

The loop's thread makes ``Figures`` in one place (``probe.run.figures``). The summary of a run,
Prometheus, and what the exporter reports of itself read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_NO_COUNTS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class DestinationFigures:
    """Counts of one destination since the start.

    ``name`` is unique among destinations. ``is_up`` is False while it is known to be unreachable.
    ``summary`` is the line that the run ends with.
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
    """A part of the probe that an error of its own has ended."""

    name: str
    error: str
    is_destination: bool = False


@dataclass(frozen=True, slots=True)
class DurationFigures:
    """A histogram: how often something took at most so many seconds, and their sum.

    ``counts`` has one number for each bound of ``probe.prometheus.durations.BOUNDS_S`` and one for
    what took longer.
    """

    counts: tuple[int, ...] = ()
    sum_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts since the start. All of them are zero before metering has begun.

    ``losses`` count what was lost before it became a Flow Record, and ``notices`` what came late or
    with less detail, both by cause (``probe.run.causes``).
    ``own_*`` is traffic of the probe itself; ``excluded_*`` is what filters left out.
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
