"""Keeps the encoded attributes of owners (or TCP states) by index, for records to gather."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from probe.flow.key_index import distinct
from probe.ipfix.template import Field
from probe.ipfix.text import Strings, cut_text, encode_variable
from probe.mapping.tables import ATTRIBUTES, AttributeValue

#: The most octets of a string, tried in turn until the strings of an owner fit.
_LIMITS = (192, 128, 96, 64, 48, 32, 24, 16, 8, 4, 0)


#: (position in the Template, field) of adjacent fields.
Run = list[tuple[int, Field]]


class Table(Protocol):
    """The source of attributes: an OwnerTable, or the names of TCP states."""

    def __getitem__(self, index: int, /) -> Any: ...


class InternedFields:
    """The fields of one Template that depend on one index column.

    ``numbers`` has a packed row per index. Each of ``blocks`` is a group of adjacent fields of
    fixed length. It is one column of octets there, with the name 'f<position of the first field>'.

    ``texts`` has one array for each of ``runs``: the concatenated variable-length strings per
    index. ``text_length`` is the number of octets of all of these together. ``strings`` encodes
    them.
    """

    def __init__(
        self,
        table: Table,
        blocks: Sequence[Run],
        runs: Sequence[Sequence[Field]],
        strings: Strings | None = None,
    ) -> None:
        self._table = table
        self._strings = strings or Strings()
        fixed = [field for block in blocks for _, field in block]
        self._fixed = [(ATTRIBUTES[field.element.name].read, field) for field in fixed]
        self._kinds = np.dtype([("", fixed_kind(field)) for field in fixed])
        self._runs = [[ATTRIBUTES[field.element.name].read for field in run] for run in runs]
        self._limit = 0
        self._seen = np.zeros(0, bool)
        self.numbers = np.zeros(
            0, np.dtype([(f"f{block[0][0]}", block_kind(block)) for block in blocks])
        )
        self.texts = [np.full(0, b"", object) for _ in runs]
        self.text_length = np.zeros(0, np.int64)

    @property
    def is_empty(self) -> bool:
        return not self._fixed and not self._runs

    @property
    def string_count(self) -> int:
        return sum(map(len, self._runs))

    def set_limit(self, octets: int) -> None:
        """Limits the octets of all variable-length strings of one index together."""
        if octets != self._limit:
            self._limit = octets
            self._seen[:] = False

    def forget(self, indices: Iterable[int]) -> None:
        for index in indices:
            if index < len(self._seen):
                self._seen[index] = False
                for texts in self.texts:
                    texts[index] = b""

    def prepare(self, indices: NDArray[Any]) -> None:
        """Encodes those of ``indices`` that are not encoded yet."""
        if len(indices) and int(indices.max()) >= len(self._seen):
            self._grow(max(256, 2 * int(indices.max())))
        missing = indices[~self._seen[indices]]
        if len(missing):
            for index in distinct(missing).tolist():
                self._encode(index)

    def _grow(self, size: int) -> None:
        more = size - len(self._seen)
        self._seen = np.append(self._seen, np.zeros(more, bool))
        self.numbers = np.append(self.numbers, np.zeros(more, self.numbers.dtype))
        self.texts = [np.append(texts, np.full(more, b"", object)) for texts in self.texts]
        self.text_length = np.append(self.text_length, np.zeros(more, np.int64))

    def _encode(self, index: int) -> None:
        entry = self._table[index]
        if self._fixed:
            values = tuple(
                fixed_value(read(entry), field, self._strings) for read, field in self._fixed
            )
            self.numbers.view(self._kinds)[index] = values
        # A command line may be longer than any field can be, so it is cut before the encoding.
        runs = [
            [cut_text(self._octets(read(entry)), self._limit) for read in run] for run in self._runs
        ]
        encoded = _shortened(runs, self._limit)
        for texts, octets in zip(self.texts, encoded, strict=True):
            texts[index] = octets
        self.text_length[index] = sum(map(len, encoded))
        self._seen[index] = True

    def _octets(self, value: AttributeValue) -> bytes:
        return value if isinstance(value, bytes) else self._strings.encode(str(value))


def fixed_kind(field: Field) -> str:
    """Returns the numpy kind of an attribute in a fixed-length field."""
    kind = field.element.type.name
    return f"S{field.length}" if kind in ("string", "octetArray") else f">u{field.length}"


def block_kind(block: Run) -> str:
    """Returns the numpy kind of fields that are copied together."""
    return f"V{sum(field.length for _, field in block)}"


def fixed_value(value: AttributeValue, field: Field, strings: Strings) -> int | bytes:
    """Returns a value for a fixed field: numbers saturate, strings are cut and padded."""
    if isinstance(value, bytes):
        return value[: field.length]
    if isinstance(value, str):
        return strings.fill(value, field.length)
    return min(int(value), (1 << 8 * field.length) - 1)


def _shortened(runs: list[list[bytes]], limit: int) -> list[bytes]:
    """Returns each run of strings as variable-length fields.

    If they exceed ``limit`` together, each string is cut to the largest of ``_LIMITS`` that
    suffices.
    """
    encoded = [b"".join(map(encode_variable, run)) for run in runs]
    for longest in _LIMITS:
        if sum(map(len, encoded)) <= limit:
            break
        encoded = [b"".join(encode_variable(cut_text(s, longest)) for s in run) for run in runs]
    return encoded
