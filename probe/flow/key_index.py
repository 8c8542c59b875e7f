"""A hash index in arrays: 64-bit keys to positive integers, thousands of keys a call.

Theory of operation. Two flat arrays have a cell for each key and its value: 12 octets a cell, and
no Python object. A key is in its *home* cell, which a hash names, or in one of the next ones. (This
is linear probing.) At most half of the cells are used. A key that occurs twice in one call finds
its first occurrence, so nobody has to sort a batch to find duplicates.

Strangers choose some of the keys. So the hash depends on a secret, another one at each start. No
key is further than ``MOST_PROBES`` cells from its home. Where one would be, the index takes a new
secret and twice the room, and keeps every key.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
Positions = NDArray[np.intp]

ABSENT = 0
#: With a million keys some 40 are needed by chance.
MOST_PROBES = 128
_DELETED = -1
_FIBONACCI = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_SMALLEST = 256


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """Returns the distinct values, ascending. ``np.unique`` imports numpy.ma: 1.6 MB and 70 ms."""
    ordered = np.sort(values)
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]


def secret(purpose: str) -> np.uint64:
    """Returns 64 bits that no stranger knows, other ones for each purpose and each start.

    Python's own hash of strings depends on such a secret, unless PYTHONHASHSEED is set. So the
    protocol core need not ask the system for random numbers.
    """
    return np.uint64(hash(purpose) % 2**64)


class KeyIndex:
    """Maps distinct uint64 keys to distinct positive int32 values; 0 stands for absent.

    ``longest``: cells that a search looks at, at most.
    """

    def __init__(self) -> None:
        self.longest = 0
        self._live = 0
        self._used = 0  # live cells and deleted ones
        self._secret = secret("cells of an index")
        self._factor = secret("spread of an index") | np.uint64(1)
        self._clear(_SMALLEST)

    def __len__(self) -> int:
        return self._live

    def find(self, keys: U64) -> I64:
        """Returns the values of the keys, 0 where absent."""
        return self._probe(keys)[0]

    def insert(self, keys: U64, values: I64) -> I64:
        """Give each absent key its value. Returns the value that each key has then.

        ``values`` are positive and differ from each other and from all values in the index. Of
        equal keys in one call one is inserted, and all of them return its value.
        """
        self._reserve(len(keys))
        result = np.zeros(len(keys), np.int64)
        waiting, cells, probes = np.arange(len(keys)), self._home(keys), 0
        while len(waiting):
            if probes == MOST_PROBES:
                self._take_new_secret()
                cells, probes = self._home(keys[waiting]), 0
            probes += 1
            self.longest = max(self.longest, probes)
            self._claim(cells, keys[waiting], values[waiting])
            held = self._values[cells]
            found = (held > 0) & (self._keys[cells] == keys[waiting])
            result[waiting[found]] = held[found]
            waiting, cells = waiting[~found], (cells[~found] + 1) & self._mask
        return result

    def remove(self, keys: U64) -> None:
        """Remove distinct keys, all of them present."""
        if not len(keys):
            return
        values, cells = self._probe(keys)
        if not values.all():
            raise KeyError("a key to remove is absent")
        self._values[cells] = _DELETED
        self._live -= len(keys)
        if not self._live:
            self._clear(_SMALLEST)

    def _home(self, keys: U64) -> Positions:
        spread = keys ^ self._secret
        spread *= self._factor
        spread ^= spread >> _HALF
        spread *= _FIBONACCI
        spread >>= self._shift
        return spread.astype(np.intp)

    def _probe(self, keys: U64) -> tuple[I64, Positions]:
        """Returns values, 0 where absent, and the cell where each search ended."""
        where = self._home(keys)
        held = self._values[where]
        found = (self._keys[where] == keys) & (held > 0)
        result = np.where(found, held, ABSENT).astype(np.int64)
        waiting = np.flatnonzero(~found & (held != ABSENT))
        for _ in range(1, self.longest):
            if not len(waiting):
                break
            cells = (where[waiting] + 1) & self._mask
            where[waiting] = cells
            held = self._values[cells]
            found = (self._keys[cells] == keys[waiting]) & (held > 0)
            result[waiting[found]] = held[found]
            waiting = waiting[~found & (held != ABSENT)]
        return result, where

    def _claim(self, cells: Positions, keys: U64, values: I64) -> None:
        """Put keys into those of their cells that are empty. One of several for a cell wins."""
        empty = np.flatnonzero(self._values[cells] == ABSENT)
        wanted = cells[empty]
        self._values[wanted] = values[empty]
        won = self._values[wanted] == values[empty]
        self._keys[wanted[won]] = keys[empty[won]]
        wins = int(np.count_nonzero(won))
        self._live += wins
        self._used += wins

    def _reserve(self, extra: int) -> None:
        """Keep at least half of the cells free. A rebuild drops deleted cells."""
        if 2 * (self._used + extra) <= len(self._values):
            return
        self._rebuild(max(_SMALLEST, 1 << int(4 * (self._live + extra) - 1).bit_length()))

    def _take_new_secret(self) -> None:
        """Spread the keys anew: too many are next to each other, by chance or by attack."""
        self._secret = secret(f"{self._secret} after too many probes")
        self._factor = secret(f"{self._factor} after too many probes") | np.uint64(1)
        self._rebuild(2 * len(self._values))

    def _rebuild(self, size: int) -> None:
        live = self._values > 0
        keys, values = self._keys[live], self._values[live].astype(np.int64)
        self._clear(size)
        self.insert(keys, values)

    def _clear(self, size: int) -> None:
        self._live = self._used = 0
        self.longest = 0
        self._keys: U64 = np.zeros(size, np.uint64)
        self._values = np.zeros(size, np.int32)
        self._mask = size - 1
        self._shift = np.uint64(64 - (size.bit_length() - 1))
