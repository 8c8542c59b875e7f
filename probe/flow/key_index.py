"""A vectorised hash index: 64-bit keys to positive integers, thousands of keys per call.

Open addressing with linear probing in two flat arrays: 12 octets per cell, at most half of them
used, and no Python object per key. A key that occurs twice in one call finds its first
occurrence, so a batch needs no sort to find duplicates.

Strangers choose some of the keys. So cells follow from a secret that differs at every start, and
no key is ever further than ``MOST_PROBES`` cells from its home: where one would be, the index
takes a new secret and twice the room, and keeps every key.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
Positions = NDArray[np.intp]

ABSENT = 0
#: Chance alone takes some 40 in a million keys.
MOST_PROBES = 128
_DELETED = -1
_FIBONACCI = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_SMALLEST = 256


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """The distinct values, ascending. ``np.unique`` would import numpy.ma: 1.6 MB and 70 ms."""
    ordered = np.sort(values)
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]


def secret(purpose: str) -> np.uint64:
    """64 bits that nobody outside can know, other ones for each purpose and each start.

    Python keys its own hash of strings so, unless PYTHONHASHSEED says otherwise. No module of the
    protocol core may ask the system for random numbers.
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
        """Values of the keys, 0 where absent."""
        return self._probe(keys)[0]

    def insert(self, keys: U64, values: I64) -> I64:
        """Give each absent key its value; return the value that each key has then.

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
        """Values, 0 where absent, and the cell where each search ended."""
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
        """Put keys into those of their cells that are empty; where several want one, one wins."""
        empty = np.flatnonzero(self._values[cells] == ABSENT)
        wanted = cells[empty]
        self._values[wanted] = values[empty]
        won = self._values[wanted] == values[empty]
        self._keys[wanted[won]] = keys[empty[won]]
        wins = int(np.count_nonzero(won))
        self._live += wins
        self._used += wins

    def _reserve(self, extra: int) -> None:
        """Keep the load at one half or less; a rebuild drops the deleted cells."""
        if 2 * (self._used + extra) <= len(self._values):
            return
        self._rebuild(max(_SMALLEST, 1 << int(4 * (self._live + extra) - 1).bit_length()))

    def _take_new_secret(self) -> None:
        """Chance, or somebody who knows the secret, has put too many keys next to each other."""
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
