"""Converts times since the start of the exporter's system to Unix time (RFC 3954 section 8)."""

from __future__ import annotations

from collections.abc import Iterable

from probe.ipfix.record import Record

_PAIRS = (
    ("flowStartSysUpTime", "flowStartMilliseconds"),
    ("flowEndSysUpTime", "flowEndMilliseconds"),
)
_WRAP = 1 << 32


def add_unix_times(records: Iterable[Record], export_ms: int, uptime_ms: int | None) -> None:
    """Adds flowStart/EndMilliseconds to ``records`` that have flowStart/EndSysUpTime.

    ``export_ms`` is the Unix time of the message, ``uptime_ms`` the uptime of the system then. If
    that is None, a record needs systemInitTimeMilliseconds; without it nothing is added. An uptime
    has 32 bits and wraps after 49.7 days; the time nearest to the export is chosen.
    """
    for record in records:
        began_ms = record.get("systemInitTimeMilliseconds")
        now_ms = uptime_ms if uptime_ms is not None else _uptime(export_ms, began_ms)
        if now_ms is None:
            continue
        for name, unix_name in _PAIRS:
            value = record.get(name)
            if isinstance(value, int) and unix_name not in record:
                record[unix_name] = export_ms - _signed(now_ms - value)


def _uptime(export_ms: int, began_ms: object) -> int | None:
    return export_ms - began_ms if isinstance(began_ms, int) else None


def _signed(age_ms: int) -> int:
    """Returns ``age_ms`` modulo 2^32 as a signed number.

    A flow may end some milliseconds after the header was written, so ages can be negative.
    """
    return (age_ms + _WRAP // 2) % _WRAP - _WRAP // 2
