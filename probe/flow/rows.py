"""Structured arrays, copied whole: numpy alone would copy them column by column."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.void]
Flags = NDArray[np.bool_]
#: Positions in a table of ends.
Slots = NDArray[np.int64]


def take_rows(rows: Rows, where: Slots) -> Rows:
    """Returns copies of the rows at ``where``. ``take`` is thirty times faster than an index."""
    return as_words(rows).take(where).view(rows.dtype)


def put_rows(rows: Rows, where: Slots, values: Rows) -> None:
    """Does ``rows[where] = values``; both are of one dtype."""
    as_words(rows)[where] = as_words(values)


def concatenate_rows(parts: list[Rows]) -> Rows:
    """Returns the rows of all parts, of which there is at least one; all are of one dtype."""
    return np.concatenate([as_words(part) for part in parts]).view(parts[0].dtype)


def convert_rows(rows: Rows, dtype: np.dtype[np.void]) -> Rows:
    """Returns copies in another layout, with 0 in those columns of ``dtype`` that rows lack."""
    converted: Rows = np.zeros(len(rows), dtype)
    known = set(rows.dtype.names or ()) - {"pad"}
    for name in dtype.names or ():
        if name in known:
            converted[name] = rows[name]
    return converted


def as_words(rows: Rows) -> Rows:
    """Returns a view in which each row is one value."""
    return rows.view(f"V{rows.dtype.itemsize}")
