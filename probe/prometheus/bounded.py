"""Counters of at most so many interfaces, and the sum of all others, which never falls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter

from probe.interfaces.table import Counters, Link

_values = attrgetter(*Counters.__slots__)
_ZERO: tuple[int, ...] = _values(Counters())


class BoundedLinks:
    """An interface that has series of its own keeps them until it is gone; first come,
    first served.

    Of the others what was added since the last time is summed up, so that the sum goes on when one
    of them goes. What they counted before they were seen is left out.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._own: set[tuple[int, float]] = set()
        self._last: dict[tuple[int, float], tuple[int, ...]] = {}
        self._others = _ZERO

    @property
    def folded(self) -> int:
        """Interfaces without series of their own."""
        return len(self._last)

    @property
    def others(self) -> Counters:
        return Counters(*self._others)

    def select(self, links: Sequence[Link]) -> list[Link]:
        """Those with series of their own; the rest goes into ``others``."""
        self._own &= {_identity(link) for link in links}
        chosen, rest = [], []
        for link in links:
            if _identity(link) in self._own or len(self._own) < self._limit:
                self._own.add(_identity(link))
                chosen.append(link)
            else:
                rest.append(link)
        if rest or self._last:
            self._fold(rest)
        return chosen

    def _fold(self, rest: Sequence[Link]) -> None:
        now = {_identity(link): _values(link.counters) for link in rest}
        added = [_ZERO, *_increments(now, self._last)]
        self._others = tuple(map(sum, zip(self._others, *added, strict=True)))
        self._last = now


def _increments(
    now: dict[tuple[int, float], tuple[int, ...]], last: dict[tuple[int, float], tuple[int, ...]]
) -> Iterator[tuple[int, ...]]:
    for identity, counters in now.items():
        before = last.get(identity, counters)
        yield tuple(max(0, new - old) for new, old in zip(counters, before, strict=True))


def _identity(link: Link) -> tuple[int, float]:
    """``since_s`` moves when an index returns for another device."""
    return link.index, link.since_s
