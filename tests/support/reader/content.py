"""Checks the values of one Data Record against each other: times, counters, biflows."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.reader.registry import REVERSE
from tests.support.reader.values import Say, Value
from tests.support.reader.wire import Layout, Message

Values = dict[str, Value]
#: Elements whose definitions list their values.
_RANGES = {
    "ipVersion": (4, 6), "flowDirection": (0, 1), "biflowDirection": (0, 3),
    "flowEndReason": (1, 5), "firewallEvent": (0, 5), "samplingAlgorithm": (0, 9),
    "sourceIPv4PrefixLength": (0, 32), "destinationIPv4PrefixLength": (0, 32),
    "sourceIPv6PrefixLength": (0, 128), "destinationIPv6PrefixLength": (0, 128),
    "ipDiffServCodePoint": (0, 63), "ipPrecedence": (0, 7),
}  # fmt: skip
_SPANS = (
    ("flowStartSeconds", "flowEndSeconds", 1000),
    ("flowStartMilliseconds", "flowEndMilliseconds", 1),
    ("flowStartMicroseconds", "flowEndMicroseconds", 1),
    ("flowStartNanoseconds", "flowEndNanoseconds", 1),
)
_UPTIMES = "flowStartSysUpTime", "flowEndSysUpTime"
#: The time in the header has whole seconds.
_SLACK_MS = 1000
_IP_HEADER = 20


@dataclass(frozen=True)
class Record:
    """A Data Record, with its elements by name."""

    domain: int
    template: int
    is_options: bool
    values: Values


def check(layout: Layout, values: Values, message: Message, oldest_s: float, say: Say) -> None:
    where = f"Template {layout.number}"
    for name, (low, high) in _RANGES.items():
        value = values.get(name)
        is_wrong = isinstance(value, int) and not low <= value <= high
        if is_wrong or (name == "ipVersion" and value == 5):
            say("value.range", f"{where}: {name} {value}")
    if layout.is_options:
        return
    _check_times(values, message, oldest_s, where, say)
    _check_counters(values, where, say)
    _check_directions(layout, values, where, say)


def _check_times(values: Values, message: Message, oldest_s: float, where: str, say: Say) -> None:
    start, end = _span_ms(values, message)
    left_ms = message.time_s * 1000
    if start is not None and end is not None and start > end:
        say("flow.order", f"{where}: from {start} to {end} ms")
    if max(start or 0, end or 0) > left_ms + _SLACK_MS:
        say("flow.future", f"{where}: from {start} to {end} ms, exported at {left_ms}")
    if start is not None and start < left_ms - oldest_s * 1000:
        say("flow.old", f"{where}: from {start} ms, exported at {left_ms}")


def _span_ms(values: Values, message: Message) -> tuple[float | None, float | None]:
    for first, last, unit_ms in _SPANS:
        if first in values or last in values:
            return _scaled(values.get(first), unit_ms), _scaled(values.get(last), unit_ms)
    if message.uptime_ms is None:
        return None, None
    booted_ms = message.time_s * 1000 - message.uptime_ms
    start, end = (_scaled(values.get(name), 1, booted_ms) for name in _UPTIMES)
    return start, end


def _scaled(value: Value | None, unit: int, base: int = 0) -> float | None:
    return base + value * unit if isinstance(value, int | float) else None


def _check_counters(values: Values, where: str, say: Say) -> None:
    octets, packets = values.get("octetDeltaCount"), values.get("packetDeltaCount")
    if not isinstance(octets, int) or not isinstance(packets, int):
        return
    if (octets == 0) != (packets == 0):
        say("flow.zero", f"{where}: {octets} octets, {packets} packets")
    elif octets < _IP_HEADER * packets:
        say("flow.small", f"{where}: {octets} octets, {packets} packets")


def _check_directions(layout: Layout, values: Values, where: str, say: Say) -> None:
    has_reverse = any(one.enterprise == REVERSE for one in layout.fields)
    if has_reverse and "biflowDirection" not in values:
        say("biflow.direction", where)
