"""Makes JSON lines at the rate of flows: a tree of fields becomes one %-format for all rows.

Theory of operation: ``Line`` compiles a tree once to a %-format and a list of readers. A reader
returns one argument of the format for all rows. So no dict is built for a row, and a line takes
some microseconds. What belongs to an owner (``Fragments``) is encoded once and kept by its index in
the OwnerTable.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from probe.flow.owner import Owner, OwnerTable
from probe.ipfix.text import encode_text
from probe.jsonlines.local_remote import Columns

_MOST_KEPT = 65536
Values = Sequence[object]
Read = Callable[[Columns], Values]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value: its %-format, and the readers of its arguments, each for all rows."""

    format: str
    reads: tuple[Read, ...]


@dataclass(frozen=True, slots=True)
class Members:
    """Any number of members of the object around it, as text that is empty or ends with a comma.

    Another member must follow.
    """

    read: Read


#: A nested mapping is an object. A value that is not a Leaf is the same in all rows.
Tree = Mapping[str, Any]


class Line:
    """Encodes all rows of one layout."""

    def __init__(self, tree: Tree) -> None:
        self._reads: list[Read] = []
        self._format = self._compile(tree)

    def encode(self, columns: Columns) -> list[str]:
        values = [read(columns) for read in self._reads]
        return list(map(self._format.__mod__, zip(*values, strict=True)))

    def _compile(self, node: object) -> str:
        if isinstance(node, Leaf):
            self._reads += node.reads
            return node.format
        if isinstance(node, list):
            return f"[{','.join(map(self._compile, node))}]"
        if not isinstance(node, Mapping):
            return encode(node).replace("%", "%%")
        pieces = []
        for key, value in node.items():
            if isinstance(value, Members):
                self._reads.append(value.read)
                pieces.append("%s")
            else:
                pieces.append(f'"{key}":{self._compile(value)},')
        return "{" + "".join(pieces).removesuffix(",") + "}"


class Fragments(dict[int, str]):
    """Maps an owner's index to the members from ``describe``, as text with a comma at the end."""

    def __init__(self, owners: OwnerTable, describe: Callable[[Owner], Mapping[str, Any]]) -> None:
        super().__init__()
        self._owners = owners
        self._describe = describe

    def __missing__(self, index: int) -> str:
        members = encode(self._describe(self._owners[index]))[1:-1]
        self[index] = found = f"{members}," if members else ""
        return found

    def forget(self, indices: Iterable[int]) -> None:
        for index in indices:
            self.pop(index, None)

    def of(self, column: str) -> Members:
        return Members(lambda columns: list(map(self.__getitem__, columns[column].tolist())))


class _Kept(dict[Any, str]):
    """Maps a key to the text from ``make``, which is kept until there are too many."""

    def __init__(self, make: Callable[[Any], str]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: Any) -> str:
        if len(self) >= _MOST_KEPT:
            self.clear()
        self[key] = found = self._make(key)
        return found


_ADDRESSES = {
    4: _Kept(lambda number: socket.inet_ntoa(number.to_bytes(4, "big"))),
    6: _Kept(lambda octets: socket.inet_ntop(socket.AF_INET6, octets)),
}
_SECONDS = _Kept(lambda second: datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S"))


def encode(value: object) -> str:
    """Returns a value as JSON in ASCII."""
    return json.dumps(value, separators=(",", ":"))


def iso_text(second: float) -> str:
    """Returns Unix time in the form of RFC 3339, in UTC."""
    return f"{_SECONDS[int(second)]}.{int(second % 1 * 1e6):06d}Z"


def clean(text: str) -> str:
    """Returns text without control characters and lone surrogates."""
    return encode_text(text).decode()


def number(column: str) -> Leaf:
    return Leaf("%d", (lambda columns: columns[column].tolist(),))


def digits(column: str) -> Leaf:
    """Returns a field with a number as a string: many readers keep 53 bits of a JSON number."""
    return Leaf('"%d"', number(column).reads)


def scaled(column: str, divisor: int, places: int) -> Leaf:
    return Leaf(f"%.{places}f", (lambda columns: (columns[column] / divisor).tolist(),))


def quotient(column: str, divisor: int) -> Leaf:
    return Leaf("%d", (lambda columns: (columns[column] // divisor).tolist(),))


def difference(column: str, less: str) -> Leaf:
    return Leaf("%d", (lambda columns: (columns[column] - columns[less]).tolist(),))


def name(column: str, names: Sequence[str] | Mapping[int, str]) -> Leaf:
    """Returns a field with the entries of ``names`` for the numbers in ``column``.

    ``names`` must have all these numbers, and no text that needs escapes.
    """
    return Leaf('"%s"', (lambda columns: [names[one] for one in columns[column].tolist()],))


def unix_time(column: str) -> Leaf:
    """Returns a field with nanoseconds as "<seconds>.<microseconds>"."""
    return Leaf('"%d.%06d"', (quotient(column, 10**9).reads[0], _microseconds(column)))


def iso_time(column: str) -> Leaf:
    """Returns a field with nanoseconds in the form of RFC 3339, in UTC."""

    def seconds(columns: Columns) -> Values:
        return list(map(_SECONDS.__getitem__, (columns[column] // 10**9).tolist()))

    return Leaf('"%s.%06dZ"', (seconds, _microseconds(column)))


def address(column: str, ip_version: int) -> Leaf:
    kept = _ADDRESSES[ip_version]

    def read(columns: Columns) -> Values:
        octets = columns[column][:, : 4 if ip_version == 4 else 16]
        whole = np.ascontiguousarray(octets).view(">u4" if ip_version == 4 else "V16")
        return list(map(kept.__getitem__, whole[:, 0].tolist()))

    return Leaf('"%s"', (read,))


def _microseconds(column: str) -> Read:
    return lambda columns: (columns[column] // 1000 % 10**6).tolist()
