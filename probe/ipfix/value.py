"""Converts octets of a field to its value, by abstract data type (RFC 7011 section 6)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address

from probe.ipfix.types import VARIABLE, DataType

Value = int | float | str | bool

_NTP_EPOCH = 2_208_988_800  # the year 1970 in seconds of NTP (RFC 7011 section 6.1.9)
_LONGEST_INTEGER = 8


def converter(kind: DataType, length: int) -> Callable[[bytes], Value]:
    """Returns a function from the octets of a field to its value.

    Values without another form become hexadecimal text. Exporters take liberties with lengths: a
    number longer than its type stays a number, and the length of an address tells its version.
    """
    if length == VARIABLE and kind.length != VARIABLE:
        return lambda octets: converter(kind, len(octets))(octets)
    if kind.is_integer and length <= max(_LONGEST_INTEGER, kind.length):
        return _signed if kind.name.startswith("signed") else _integer
    if kind.name in _PLAIN_TIMES and length <= _LONGEST_INTEGER:
        return _integer
    if kind.name == "boolean":
        return _boolean
    if kind.name in _OF_LENGTH:
        return _OF_LENGTH[kind.name].get(length, bytes.hex)
    return _CONVERTERS.get(kind.name, bytes.hex) if kind.allows(length) else bytes.hex


def _integer(octets: bytes) -> int:
    return int.from_bytes(octets, "big")


def _signed(octets: bytes) -> int:
    return int.from_bytes(octets, "big", signed=True)


def _float(octets: bytes) -> float:
    value: float = struct.unpack("!f" if len(octets) == 4 else "!d", octets)[0]
    return value


def _boolean(octets: bytes) -> bool:
    return _integer(octets) == 1


def _text(octets: bytes) -> str:
    """Returns the text without the NULs that fill a fixed-length string."""
    return octets.rstrip(b"\0").decode("utf-8", "replace")


def _mac(octets: bytes) -> str:
    return octets.hex(":")


def _ipv4(octets: bytes) -> str:
    return "{}.{}.{}.{}".format(*octets)


@lru_cache(4096)
def _ipv6(octets: bytes) -> str:
    return str(IPv6Address(octets))


def _ntp_microseconds(octets: bytes) -> int:
    """Returns Unix microseconds."""
    return _ntp(octets, 1_000_000)


def _ntp_nanoseconds(octets: bytes) -> int:
    """Returns Unix nanoseconds."""
    return _ntp(octets, 1_000_000_000)


def _ntp(octets: bytes, per_second: int) -> int:
    seconds, fraction = _integer(octets[:4]), _integer(octets[4:])
    return (seconds - _NTP_EPOCH) * per_second + (fraction * per_second >> 32)


_CONVERTERS: dict[str, Callable[[bytes], Value]] = {
    "macAddress": _mac,
    "string": _text,
    "dateTimeMicroseconds": _ntp_microseconds,
    "dateTimeNanoseconds": _ntp_nanoseconds,
}
_PLAIN_TIMES = ("dateTimeSeconds", "dateTimeMilliseconds")
_FLOATS: dict[int, Callable[[bytes], Value]] = {4: _float, 8: _float}
_ADDRESSES: dict[int, Callable[[bytes], Value]] = {4: _ipv4, 16: _ipv6}
_OF_LENGTH = {
    "float32": _FLOATS,
    "float64": _FLOATS,
    "ipv4Address": _ADDRESSES,
    "ipv6Address": _ADDRESSES,
}
