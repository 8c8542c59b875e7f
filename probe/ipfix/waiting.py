"""Data Sets that came before their Template, as they do over UDP (RFC 7011 section 9)."""

from __future__ import annotations

from probe.ipfix.announcement import Header

#: Of one domain: octets, and how much older than its Template's message a Set may be, in seconds.
MOST_OCTETS, _LONGEST_S = 1 << 16, 1800
_SET_OCTETS = 512  # that a Set takes beside its body, about

_Waiting = tuple[bytes, Header]


class WaitingSets:
    """Those of one domain. What finds no room is not taken: it stays counted as unknown."""

    def __init__(self) -> None:
        self._sets: dict[int, list[_Waiting]] = {}
        #: Octets that they take.
        self.weight = 0

    def __bool__(self) -> bool:
        return bool(self._sets)

    def add(self, number: int, body: memoryview, header: Header) -> None:
        cost = _SET_OCTETS + len(body)
        if self.weight + cost <= MOST_OCTETS:
            self.weight += cost
            self._sets.setdefault(number, []).append((bytes(body), header))

    def take(self, number: int, now_s: int) -> list[_Waiting]:
        """Those of a Template that comes in a message of this export time.

        Old ones are dropped, for the id may have had another meaning then.
        """
        found = self._sets.pop(number, [])
        self.weight -= sum(_SET_OCTETS + len(body) for body, _ in found)
        return [one for one in found if abs(now_s - one[1].export_time_s) <= _LONGEST_S]
