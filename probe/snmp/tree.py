"""Holds all objects in lexicographic order, and finds them by bisection.

The columns of a table share their rows. A value is encoded when it is asked for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from probe.snmp.ber import (
    OBJECT_IDENTIFIER,
    SEQUENCE,
    Oid,
    encode,
    encode_arcs,
    encode_oid_body,
)

NO_SUCH_OBJECT, NO_SUCH_INSTANCE, END_OF_MIB_VIEW = b"\x80\0", b"\x81\0", b"\x82\0"
Position = tuple[int, int]


class Rows:
    """The instances of all columns of one table, ascending; a scalar has ``(0,)`` alone."""

    def __init__(self, instances: Sequence[Oid]) -> None:
        self.instances = instances
        self.suffixes = [encode_arcs(instance) for instance in instances]

    def __len__(self) -> int:
        return len(self.instances)


SCALAR = Rows([(0,)])


@dataclass(slots=True)
class Column:
    """A column; ``encode`` maps the position of a row to its value with tag and length."""

    prefix: Oid
    rows: Rows
    encode: Callable[[int], bytes]
    is_counter64: bool = False
    head: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.head = encode_oid_body(self.prefix)


class Tree:
    """All objects. A position is the pair of numbers (column, row)."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = sorted((one for one in columns if len(one.rows)), key=lambda one: one.prefix)
        self._prefixes = [one.prefix for one in self.columns]
        self._known = {one.prefix for one in columns}

    def __len__(self) -> int:
        """Returns the number of objects."""
        return sum(len(column.rows) for column in self.columns)

    def find(self, name: Oid) -> Position | bytes:
        """Returns the position of exactly that object, or the exception to answer with."""
        at = bisect_right(self._prefixes, name) - 1
        column = self.columns[at] if at >= 0 else None
        if column and name[: len(column.prefix)] == column.prefix:
            row = _index(column.rows.instances, name[len(column.prefix) :])
            return NO_SUCH_INSTANCE if row is None else (at, row)
        is_known = any(name[:length] in self._known for length in range(len(name) + 1))
        return NO_SUCH_INSTANCE if is_known else NO_SUCH_OBJECT

    def after(self, name: Oid) -> Position | None:
        """Returns the position of the first object behind ``name``, None at the end."""
        at = bisect_right(self._prefixes, name) - 1
        if at >= 0:
            column = self.columns[at]
            if name[: len(column.prefix)] == column.prefix:
                row = bisect_right(column.rows.instances, name[len(column.prefix) :])
                if row < len(column.rows):
                    return at, row
        return (at + 1, 0) if at + 1 < len(self.columns) else None

    def step(self, position: Position) -> Position | None:
        at, row = position
        if row + 1 < len(self.columns[at].rows):
            return at, row + 1
        return (at + 1, 0) if at + 1 < len(self.columns) else None

    def without_counter64(self, position: Position | None) -> Position | None:
        """Returns ``position``, or the first one behind it that version 1 can carry."""
        while position and self.columns[position[0]].is_counter64:
            at = position[0] + 1
            position = (at, 0) if at < len(self.columns) else None
        return position

    def name(self, position: Position) -> Oid:
        column = self.columns[position[0]]
        return *column.prefix, *column.rows.instances[position[1]]

    def varbind(self, position: Position) -> bytes:
        at, row = position
        column = self.columns[at]
        name = column.head + column.rows.suffixes[row]
        return encode(SEQUENCE, encode(OBJECT_IDENTIFIER, name) + column.encode(row))


def encode_varbind(name: Oid, value: bytes) -> bytes:
    return encode(SEQUENCE, encode(OBJECT_IDENTIFIER, encode_oid_body(name)) + value)


def _index(instances: Sequence[Oid], wanted: Oid) -> int | None:
    at = bisect_left(instances, wanted)
    return at if at < len(instances) and instances[at] == wanted else None
