"""Makes the lines at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from probe.figures import Figures
from probe.units import octets


def summarize(figures: Figures, view: str = "") -> list[str]:
    """Returns the lines. ``view`` is the summary of the built-in collector, or ''."""
    lines = [
        f"{figures.flows} flows, {figures.packets} packets, {octets(figures.octets)} "
        f"in {figures.records} records"
    ]
    lines += [destination.summary for destination in figures.destinations]
    lines += _left_out(figures)
    if view:
        lines.append(view)
    if figures.agent_deaths:
        lines.append(f"the SNMP agent ended by itself: {figures.agent_deaths} times")
    lines += [
        f"{part.name} ended by {part.error}"
        for part in figures.failed_parts
        if not part.is_destination
    ]
    if noticed := notice_line(figures.notices):
        lines.append(noticed)
    lines.append(lost_line({**figures.losses, **_not_sent(figures)}))
    return lines


def lost_line(losses: Mapping[str, int]) -> str:
    """Returns the line of losses; without losses it is 'lost: nothing'."""
    return f"lost: {_named(losses) or 'nothing'}"


def notice_line(notices: Mapping[str, int]) -> str:
    """Returns the line of notices, or '' if there are none."""
    named = _named(notices)
    return f"late, or with less detail, but not lost: {named}" if named else ""


def _left_out(figures: Figures) -> Iterator[str]:
    yield f"own traffic left out: {figures.own_packets} packets, {octets(figures.own_octets)}"
    if figures.excluded_rows:
        forgotten = figures.forgotten_flows
        yield (
            f"filters left out: {figures.excluded_flows} flow ends, "
            f"{figures.excluded_packets} packets, {octets(figures.excluded_octets)}"
            + (f" ({forgotten} ends forgotten)" if forgotten else "")
        )


def _named(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)


def _not_sent(figures: Figures) -> dict[str, int]:
    """Returns the counts of records and messages that all destinations dropped."""
    return {
        "records_dropped": sum(one.dropped_records for one in figures.destinations),
        "messages_dropped": sum(one.dropped_messages for one in figures.destinations),
    }
