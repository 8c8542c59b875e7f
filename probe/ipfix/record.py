"""Data Records to values, by a reader made once per Template."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from ipaddress import IPv6Address

from probe.errors import DecodeError
from probe.ipfix.template import Field, Template
from probe.ipfix.types import VARIABLE, DataType

Value = int | float | str | bool

_NTP_EPOCH = 2_208_988_800  # 1970 in the seconds of NTP, RFC 7011 section 6.1.9


def _integer(octets: bytes) -> int:
    return int.from_bytes(octets, "big")


def _signed(octets: bytes) -> int:
    return int.from_bytes(octets, "big", signed=True)


def _float(octets: bytes) -> float:
    value: float = struct.unpack("!f" if len(octets) == 4 else "!d", octets)[0]
    return value


def _boolean(octets: bytes) -> bool:
    return octets == b"\x01"


def _text(octets: bytes) -> str:
    return octets.rstrip(b"\0").decode("utf-8", "replace")


def _mac(octets: bytes) -> str:
    return octets.hex(":")


def _ipv4(octets: bytes) -> str:
    return "{}.{}.{}.{}".format(*octets)


@lru_cache(4096)
def _ipv6(octets: bytes) -> str:
    return str(IPv6Address(octets))


def _ntp_microseconds(octets: bytes) -> int:
    """Unix microseconds."""
    return _ntp(octets, 1_000_000)


def _ntp_nanoseconds(octets: bytes) -> int:
    """Unix nanoseconds."""
    return _ntp(octets, 1_000_000_000)


def _ntp(octets: bytes, per_second: int) -> int:
    seconds, fraction = _integer(octets[:4]), _integer(octets[4:])
    return (seconds - _NTP_EPOCH) * per_second + (fraction * per_second >> 32)


_CONVERTERS: dict[str, Callable[[bytes], Value]] = {
    "float32": _float,
    "float64": _float,
    "boolean": _boolean,
    "macAddress": _mac,
    "string": _text,
    "dateTimeSeconds": _integer,
    "dateTimeMilliseconds": _integer,
    "dateTimeMicroseconds": _ntp_microseconds,
    "dateTimeNanoseconds": _ntp_nanoseconds,
    "ipv4Address": _ipv4,
    "ipv6Address": _ipv6,
}


def converter(kind: DataType, length: int) -> Callable[[bytes], Value]:
    """Octets of a field to its value; hexadecimal text for what has no other form."""
    if length != VARIABLE and not kind.allows(length):
        return bytes.hex
    if kind.is_integer:
        return _signed if kind.name.startswith("signed") else _integer
    return _CONVERTERS.get(kind.name, bytes.hex)


class RecordReader:
    """Reads the records of one Template: a struct per run of fields of fixed length."""

    def __init__(self, template: Template) -> None:
        self.template = template
        self._minimum = sum(1 if f.is_variable else f.length for f in template.fields)
        self._steps = [_step(run) for run in _runs(template.fields)]

    def records(self, body: memoryview) -> Iterator[dict[str, Value]]:
        """All records of a Set; what is left and shorter than any record is padding."""
        octets, at = bytes(body), 0
        while len(octets) - at >= self._minimum:
            record: dict[str, Value] = {}
            for step in self._steps:
                at = step(octets, at, record)
            yield record


_Step = Callable[[bytes, int, dict[str, Value]], int]
_NATIVE = {1: "B", 2: "H", 4: "I", 8: "Q"}


def _runs(fields: tuple[Field, ...]) -> Iterator[list[Field]]:
    run: list[Field] = []
    for field in fields:
        if field.is_variable:
            if run:
                yield run
            yield [field]
            run = []
        else:
            run.append(field)
    if run:
        yield run


def _step(run: list[Field]) -> _Step:
    return _variable_step(run[0]) if run[0].is_variable else _fixed_step(run)


def _fixed_step(run: list[Field]) -> _Step:
    kinds = [_struct_kind(field) for field in run]
    layout = struct.Struct("!" + "".join(kinds))
    names = [field.element.name for field in run]
    convert = [
        (field.element.name, converter(field.element.type, field.length))
        for field, kind in zip(run, kinds, strict=True)
        if kind.endswith("s")
    ]

    def read(octets: bytes, at: int, record: dict[str, Value]) -> int:
        try:
            values = dict(zip(names, layout.unpack_from(octets, at), strict=True))
        except struct.error:
            raise DecodeError("a Data Record runs past its Set") from None
        for name, function in convert:
            values[name] = function(values[name])
        record.update(values)
        return at + layout.size

    return read


def _struct_kind(field: Field) -> str:
    """Plain numbers are unpacked at once, the rest as octets for its converter."""
    kind = field.element.type
    plain = kind.name.startswith("unsigned") and kind.allows(field.length)
    if plain or kind.name in ("dateTimeSeconds", "dateTimeMilliseconds"):
        return _NATIVE.get(field.length, f"{field.length}s")
    return f"{field.length}s"


def _variable_step(field: Field) -> _Step:
    name, convert = field.element.name, converter(field.element.type, VARIABLE)

    def read(octets: bytes, at: int, record: dict[str, Value]) -> int:
        if at >= len(octets):
            raise DecodeError(f"{name}: no octets left in the Set")
        length, at = octets[at], at + 1
        if length == 255:
            length, at = _integer(octets[at : at + 2]), at + 2
        if at + length > len(octets):
            raise DecodeError(f"{name}: {length} octets run past the Set")
        record[name] = convert(octets[at : at + length])
        return at + length

    return read
