"""Keeps Data Sets that arrive before their Template, as over UDP (RFC 7011 section 9)."""

from __future__ import annotations

from probe.ipfix.announcement import Header

#: Bounds of one domain: octets, and how many seconds a Set may be older than its Template.
MOST_OCTETS, _LONGEST_S = 1 << 16, 1800
_SET_OCTETS = 512  # approximate memory of a Set beside its body

_Waiting = tuple[bytes, Header]


class WaitingSets:
    """The waiting Sets of one domain.

    A Set that finds no room is not kept, and stays counted as unknown.
    """

    def __init__(self) -> None:
        self._sets: dict[int, list[_Waiting]] = {}
        #: Memory of the waiting Sets, in octets.
        self.weight = 0

    def __bool__(self) -> bool:
        return bool(self._sets)

    def add(self, number: int, body: memoryview, header: Header) -> None:
        cost = _SET_OCTETS + len(body)
        if self.weight + cost <= MOST_OCTETS:
            self.weight += cost
            self._sets.setdefault(number, []).append((bytes(body), header))

    def take(self, number: int, now_s: int) -> list[_Waiting]:
        """Returns the Sets of a Template that arrived in a message of this export time.

        Drops Sets that are too old, because the id may have had another meaning then.
        """
        found = self._sets.pop(number, [])
        self.weight -= sum(_SET_OCTETS + len(body) for body, _ in found)
        return [one for one in found if abs(now_s - one[1].export_time_s) <= _LONGEST_S]
