"""Which slot of the table an end has.

TCP ends have the id that their source gave them. UDP ends get one that is made of their Flow Key:
a socket that takes over the port of a closed one goes on with the same flow, as its peer sees no
difference. Such an id is a hash, so it only finds: the whole Flow Key decides. An end whose id
belongs to another end takes the next id.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probe.flow.codes import UDP
from probe.flow.end_table import FREE, NOBODY, EndTable
from probe.flow.key_index import KeyIndex
from probe.flow.keys import Words, are_equal, end_ids, end_words, next_ids
from probe.flow.rows import Flags, Rows, Slots, take_rows


class SlotFinder:
    """Finds slots of ``table`` by the ids of their ends."""

    def __init__(self, table: EndTable) -> None:
        self._table = table
        self._ids = KeyIndex()

    def find_ids(self, ids: NDArray[np.uint64]) -> Slots:
        """Returns the slot of each id, NOBODY where there is none. For ends of TCP."""
        return self._ids.find(ids)

    def find(self, rows: Rows) -> Slots:
        """Returns the slot of each row's end, NOBODY where there is none. Changes nothing."""
        ids = rows["id"].copy()
        udp = np.flatnonzero(rows["protocol"] == UDP)
        words = end_words(take_rows(np.ascontiguousarray(rows), udp))
        ids[udp] = end_ids(words)
        slots = self._ids.find(ids)
        found = udp[slots[udp] != NOBODY]
        while len(found):
            is_other = ~are_equal(
                words[:, np.searchsorted(udp, found)], self._words_of(slots[found])
            )
            found = found[is_other]
            ids[found] = next_ids(ids[found])
            slots[found] = self._ids.find(ids[found])
            found = found[slots[found] != NOBODY]
        return slots

    def find_keys(self, words: Words) -> tuple[Slots, Flags]:
        """Returns the slot that each Flow Key's id finds, and whether its end has that key."""
        slots = self._ids.find(end_ids(words))
        return slots, (slots != NOBODY) & are_equal(words, self._words_of(slots))

    def locate(self, ids: NDArray[np.uint64]) -> Slots:
        """Returns the slot of each id. A new id gets a slot in state FREE."""
        ids = np.ascontiguousarray(ids)
        slots = self._ids.find(ids)
        unknown = np.flatnonzero(slots == NOBODY)
        if len(unknown):
            offered = self._table.allocate(len(unknown))
            given = self._ids.insert(ids[unknown], offered)
            self._table.release(offered[given != offered])
            slots[unknown] = given
        return slots

    def locate_keys(self, rows: Rows, udp: Slots) -> Slots:
        """Returns the slot of each row; rows at ``udp`` get the ids of their Flow Keys."""
        words = end_words(take_rows(rows, udp))
        ids = end_ids(words)
        rows["id"][udp] = ids
        slots = self.locate(rows["id"])
        while len(others := self._find_others(slots[udp], words)):
            ids[others] = next_ids(ids[others])
            rows["id"][udp[others]] = ids[others]
            slots[udp[others]] = self.locate(ids[others])
        return slots

    def forget(self, slots: Slots) -> None:
        """Remove the ids of these ends, which all have one."""
        self._ids.remove(np.ascontiguousarray(self._table.rows["id"][slots]))

    def _find_others(self, slots: Slots, words: Words) -> Slots:
        """Returns which ends have a slot that belongs to an end with another Flow Key."""
        table = self._table
        holders = np.empty_like(words)
        new = np.flatnonzero(table.state[slots] == FREE)
        table.scratch[slots[new]] = new  # of several with one new slot, the last one holds it
        holders[:, new] = words[:, table.scratch[slots[new]]]
        known = np.flatnonzero(table.state[slots] != FREE)
        holders[:, known] = self._words_of(slots[known])
        return np.flatnonzero(~are_equal(words, holders))

    def _words_of(self, slots: Slots) -> Words:
        return end_words(self._table.take_rows(slots))
