"""Decodes Data Records to values, with a reader that is made once per Template."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator

from probe.errors import DecodeError
from probe.ipfix.oddity import Note, Oddity
from probe.ipfix.template import Field, Template
from probe.ipfix.value import Value, converter

Record = dict[str, Value]

_Named = tuple[str, Field]
_Step = Callable[[bytes, int, Record], int]
_NATIVE = {1: "B", 2: "H", 4: "I", 8: "Q"}
_UPTIMES = {"flowStartSysUpTime", "flowEndSysUpTime"}


class RecordReader:
    """Reads the records of one Template, with one struct for each run of fixed-length fields.

    A Template may have an element twice (RFC 7011 section 8); the second is called 'name#2'.
    No field of the Template may have length 0.
    """

    def __init__(self, template: Template) -> None:
        self.template = template
        self._minimum = sum(1 if f.is_variable else f.length for f in template.fields)
        named = list(_named(template.fields))
        self.names = frozenset(name for name, _ in named)
        self.has_uptimes = not _UPTIMES.isdisjoint(self.names)
        self._steps = [_step(run) for run in _runs(named)]

    def records(self, body: memoryview, note: Note) -> tuple[list[Record], memoryview]:
        """Returns the complete records of a Set and the octets behind them, which are padding."""
        octets, at = bytes(body), 0
        last = len(octets) - self._minimum
        found: list[Record] = []
        try:
            while at <= last:
                record: Record = {}
                for step in self._steps:
                    at = step(octets, at, record)
                found.append(record)
        except DecodeError as error:
            note(Oddity.CUT_RECORD, f"set {self.template.id}: {error}")
            return found, body[:0]
        return found, body[at:]


def _named(fields: tuple[Field, ...]) -> Iterator[_Named]:
    seen: Counter[str] = Counter()
    for field in fields:
        name = field.element.name
        seen[name] += 1
        yield (name if seen[name] == 1 else f"{name}#{seen[name]}"), field


def _runs(fields: list[_Named]) -> Iterator[list[_Named]]:
    run: list[_Named] = []
    for name, field in fields:
        if field.is_variable:
            if run:
                yield run
            yield [(name, field)]
            run = []
        else:
            run.append((name, field))
    if run:
        yield run


def _step(run: list[_Named]) -> _Step:
    return _variable_step(*run[0]) if run[0][1].is_variable else _fixed_step(run)


def _fixed_step(run: list[_Named]) -> _Step:
    kinds = [_struct_kind(field) for _, field in run]
    layout = struct.Struct("!" + "".join(kinds))
    names = [name for name, _ in run]
    convert = [
        (name, converter(field.element.type, field.length))
        for (name, field), kind in zip(run, kinds, strict=True)
        if kind.endswith("s")
    ]

    def read(octets: bytes, at: int, record: Record) -> int:
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
    """Returns the struct format of a field: a plain number, else octets for its converter."""
    kind = field.element.type
    plain = kind.name.startswith("unsigned") or (
        kind.name in ("dateTimeSeconds", "dateTimeMilliseconds") and kind.allows(field.length)
    )
    return _NATIVE.get(field.length, f"{field.length}s") if plain else f"{field.length}s"


def _variable_step(name: str, field: Field) -> _Step:
    convert = converter(field.element.type, field.length)

    def read(octets: bytes, at: int, record: Record) -> int:
        if at >= len(octets):
            raise DecodeError(f"{name}: no octets left in the Set")
        length, at = octets[at], at + 1
        if length == 255:
            length, at = int.from_bytes(octets[at : at + 2], "big"), at + 2
        if at + length > len(octets):
            raise DecodeError(f"{name}: {length} octets run past the Set")
        record[name] = convert(octets[at : at + length])
        return at + length

    return read
