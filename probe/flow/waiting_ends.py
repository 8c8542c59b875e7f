"""Ends that wait for their peer, by the key that the peer would be found by."""

from __future__ import annotations

import numpy as np

from probe.flow.end_table import NOBODY
from probe.flow.key_index import U64, KeyIndex
from probe.flow.rows import Flags, Slots


class WaitingEnds:
    """Ends by the key that they wait under. Those with one key are a *group*, by number."""

    def __init__(self) -> None:
        self._index = KeyIndex()
        self._members = np.zeros(256, np.int64)
        self._sum = np.zeros(256, np.int64)  # of the members' slots: of one member, its slot
        self._free: Slots = np.arange(255, 0, -1)

    def __len__(self) -> int:
        """Returns how many groups have members."""
        return len(self._index)

    def enter(self, keys: U64, slots: Slots) -> Slots:
        """Add ends. Returns the group of each, which ``leave`` wants to know again."""
        groups = self._groups(keys)
        np.add.at(self._members, groups, 1)
        np.add.at(self._sum, groups, slots)
        return groups

    def leave(self, keys: U64, groups: Slots, slots: Slots) -> None:
        """Remove ends; groups without members go."""
        np.subtract.at(self._members, groups, 1)
        np.subtract.at(self._sum, groups, slots)
        empty = np.flatnonzero(self._members[groups] == 0)
        turn = np.arange(len(empty))
        self._sum[groups[empty]] = turn  # of several that leave one group the last one ends it
        closing = empty[self._sum[groups[empty]] == turn]
        self._sum[groups[closing]] = 0
        self._index.remove(keys[closing])
        self._free = np.concatenate([self._free, groups[closing]])

    def find(self, keys: U64) -> Slots:
        """Returns the group of each key, 0 where no end waits under it."""
        return self._index.find(keys)

    @property
    def size(self) -> int:
        """All groups have lower numbers."""
        return len(self._members)

    def count(self, groups: Slots) -> Slots:
        """Returns how many members each group has; group 0 has none."""
        return self._members[groups]

    def has_ambiguous(self) -> bool:
        """Returns True if several ends wait under one key."""
        return bool((self._members > 1).any())

    def is_alone(self, groups: Slots) -> Flags:
        """Returns which groups have one member."""
        alone: Flags = self._members[groups] == 1
        return alone

    def sole(self, keys: U64) -> Slots:
        """Returns the slot of the only end under each key, NOBODY if none or several wait."""
        groups = self._index.find(keys)
        return np.where(self._members[groups] == 1, self._sum[groups], NOBODY)

    def _groups(self, keys: U64) -> Slots:
        while len(self._free) < len(keys):
            self._grow()
        kept = len(self._free) - len(keys)
        offered, self._free = self._free[kept:], self._free[:kept]
        groups = self._index.insert(keys, offered)
        self._free = np.concatenate([self._free, offered[groups != offered]])
        return groups

    def _grow(self) -> None:
        size = len(self._members)
        self._free = np.concatenate([np.arange(2 * size - 1, size - 1, -1), self._free])
        self._members = np.concatenate([self._members, np.zeros(size, np.int64)])
        self._sum = np.concatenate([self._sum, np.zeros(size, np.int64)])
