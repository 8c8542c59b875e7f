"""All that a scrape tells, as plain copies of one moment; made by the loop's thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from probe.interfaces.interface import Interface
from probe.prometheus.traffic import ContainerLabels

if TYPE_CHECKING:
    from probe.run.outlet import Outlet
    from probe.run.probe import Probe


@dataclass(frozen=True, slots=True)
class DestinationFigures:
    """``name`` is unique. ``is_up``: not known to be unreachable."""

    name: str
    messages: int
    octets: int
    records: int
    dropped_messages: int
    dropped_records: int
    errors: int
    queued_octets: int
    is_up: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``containers``: values of ``traffic.COLUMNS``; ``losses``: by cause, before a Flow Record;
    ``ticks``, ``tick_delays``: counts of ``durations.BOUNDS_S`` and their sum in seconds."""

    interfaces: Sequence[Interface]
    containers: Mapping[ContainerLabels, tuple[int, ...]]
    folded_records: int
    collector: str
    flows: int
    records: int
    packets: int
    octets: int
    excluded_packets: int
    excluded_octets: int
    cache_flows: int
    cache_limit: int
    waiting_records: int
    agent_deaths: int
    losses: Mapping[str, int]
    destinations: Sequence[DestinationFigures]
    ticks: tuple[tuple[int, ...], float]
    tick_delays: tuple[tuple[int, ...], float]
    failed_parts: Sequence[str] = ()
    notices: Mapping[str, int] = field(default_factory=dict)


def take_snapshot(probe: Probe, read_ended: Callable[[], Sequence[Interface]]) -> Snapshot:
    """``read_ended``: interfaces that are gone since the last scrape."""
    excluded_packets, excluded_octets = probe.ignored()
    exported = probe.exported
    interfaces = probe.interface_table.read()
    ended = read_ended()
    return Snapshot(
        interfaces=[*ended, *interfaces],
        containers=probe.traffic.sums() if probe.traffic else {},
        folded_records=probe.traffic.folded if probe.traffic else 0,
        collector=type(probe.collector).__name__.removesuffix("Source").lower(),
        flows=probe.observed_flows,
        records=exported.records,
        packets=exported.packets,
        octets=exported.octets,
        excluded_packets=excluded_packets,
        excluded_octets=excluded_octets,
        cache_flows=probe.cache.entries,
        cache_limit=probe.config.max_flows,
        waiting_records=len(probe.waiting),
        agent_deaths=probe.snmp.deaths if probe.snmp else 0,
        losses=probe.losses(),
        notices=probe.notices(),
        destinations=_figures(probe.exporter.outlets),
        failed_parts=[part.name for part in probe.guard.failed],
        ticks=probe.tick_times.copy(),
        tick_delays=probe.tick_delays.copy(),
    )


def _figures(outlets: Sequence[Outlet]) -> list[DestinationFigures]:
    found: list[DestinationFigures] = []
    for outlet in outlets:
        twins = sum(one.name.partition("#")[0] == outlet.name for one in found)
        sent = outlet.statistics
        found.append(
            DestinationFigures(
                name=f"{outlet.name}#{twins + 1}" if twins else outlet.name,
                messages=sent.sent_messages,
                octets=sent.sent_octets,
                records=sent.sent_records,
                dropped_messages=sent.dropped_messages,
                dropped_records=sent.dropped_records,
                errors=sent.errors,
                queued_octets=outlet.backlog,
                is_up=not outlet.is_down,
            )
        )
    return found
