"""What a run did, as the lines that it ends with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from probe.flow.rows import Rows
from probe.units import octets

if TYPE_CHECKING:
    from probe.collector import CollectorSocket
    from probe.run.probe import Probe


@dataclass(slots=True)
class Exported:
    """Sums over all records that left the cache, for each destination the same."""

    records: int = 0
    packets: int = 0
    octets: int = 0

    def count(self, records: Rows) -> None:
        self.records += len(records)
        self.packets += int(records["packets"].sum())
        self.octets += int(records["octets"].sum())


def summarize(probe: Probe, losses: Mapping[str, int], shown: CollectorSocket | None) -> list[str]:
    """``losses`` are those of metering, by name; ``shown`` the built-in collector."""
    total, own = probe.exported, probe.own.statistics
    lines = [
        f"{probe.cache.observed_flows} flows, {total.packets} packets, {octets(total.octets)} "
        f"in {total.records} records"
    ]
    lines += [f"{outlet.name}: {outlet.summary()}" for outlet in probe.exporter.outlets]
    lines.append(f"own traffic left out: {own.packets} packets, {octets(own.octets)}")
    excluded = probe.filter
    if excluded.excluded_rows:
        lines.append(
            f"filters left out: {excluded.excluded_flows} flow ends, "
            f"{excluded.excluded_packets} packets, {octets(excluded.excluded_octets)}"
            + (f" ({gone} ends forgotten)" if (gone := excluded.forgotten_flows) else "")
        )
    if shown:
        lines.append(shown.summary())
    if probe.snmp and probe.snmp.deaths:
        lines.append(f"the SNMP agent ended by itself: {probe.snmp.deaths} times")
    destinations = [outlet.part for outlet in probe.exporter.outlets]
    for part in probe.guard.failed:
        if part not in destinations:
            lines.append(f"{part.name} ended by {part.error}")
    if noticed := notice_line(probe.notices()):
        lines.append(noticed)
    lines.append(lost_line({**losses, **_own_losses(probe)}))
    return lines


def lost_line(losses: Mapping[str, int]) -> str:
    return f"lost: {_named(losses) or 'nothing'}"


def notice_line(notices: Mapping[str, int]) -> str:
    """'' where there is nothing to say."""
    named = _named(notices)
    return f"late, or with less detail, but not lost: {named}" if named else ""


def _named(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)


def _own_losses(probe: Probe) -> dict[str, int]:
    """What the destinations did not take."""
    streams = [sink.statistics for sink in probe.exporter.sinks]
    return {
        "records_dropped": sum(counted.dropped_records for counted in streams),
        "messages_dropped": sum(counted.dropped_messages for counted in streams),
    }
