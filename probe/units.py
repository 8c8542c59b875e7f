"""Writes quantities for people: octets, ages and round-trip times."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def octets(count: int) -> str:
    """Returns '1.23 MB' for 1234567: three digits and a decimal unit."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.3g} {_UNITS[unit]}"


def age(seconds: float) -> str:
    """Returns an age such as '0.8s', '42s', '3m12s', '5h07m' or '2d03h'."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def milliseconds(time_us: float) -> str:
    """Returns microseconds as milliseconds, such as '0.12 ms', or '' for 0."""
    return f"{time_us / 1000:.3g} ms" if time_us else ""
