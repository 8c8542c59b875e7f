"""A bounded set of keys that were seen. Those not seen for the longest time go first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probe.flow.key_index import KeyIndex, distinct

#: Keys of one generation: 131 072 in both.
_GENERATION = 65536
_LAST_SERIAL = 2**30  # values of a KeyIndex have 31 bits


class RecentlySeen:
    """Two generations of keys, so at least the latest ``generation`` ones, at most twice as many.

    A key that is seen moves to the young generation. When that is full it becomes the old one, and
    the keys of the former old one are forgotten.
    """

    def __init__(self, generation: int = _GENERATION) -> None:
        self._generation = generation
        self._young, self._old = KeyIndex(), KeyIndex()
        self._serial = 0
        #: Keys that were forgotten for want of room.
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def note(self, keys: NDArray[np.uint64]) -> int:
        """Note that ``keys`` were seen, some perhaps twice. Returns how many of them are new."""
        keys = distinct(keys)
        lots = range(0, len(keys), self._generation)
        return sum(self._note(keys[at : at + self._generation]) for at in lots)

    def forget(self, keys: NDArray[np.uint64]) -> None:
        """Forget ``keys``. They may be unknown, or repeated."""
        keys = distinct(keys)
        for index in (self._young, self._old):
            index.remove(keys[index.find(keys) != 0])

    def _note(self, keys: NDArray[np.uint64]) -> int:
        """As ``note``, of distinct keys that fit into a generation."""
        absent = keys[self._young.find(keys) == 0]
        if not len(absent):
            return 0
        known = absent[self._old.find(absent) != 0]
        self._old.remove(known)
        is_full = len(self._young) + len(absent) > self._generation
        if is_full or self._serial > _LAST_SERIAL:
            self.forgotten += len(self._old)
            self._young, self._old, self._serial = KeyIndex(), self._young, 0
        self._young.insert(absent, self._serial + 1 + np.arange(len(absent)))
        self._serial += len(absent)
        return len(absent) - len(known)
