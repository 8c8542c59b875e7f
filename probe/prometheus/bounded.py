"""Counters of at most so many interfaces, and the sum of all others, which never falls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter

from probe.interfaces.interface import Counters, Interface

_values = attrgetter(*Counters.__slots__)
_ZERO: tuple[int, ...] = _values(Counters())


class BoundedInterfaces:
    """An interface that has series of its own keeps them until it is gone; first come,
    first served.

    One that is gone is selected once more, with its last counters, and then goes into ``ended``.
    Of the others what was added since the last time is summed up, so that the sum goes on when one
    of them goes. What they counted before they were seen is left out, unless they came and went
    between two scrapes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._own: set[tuple[int, float]] = set()
        self._last: dict[tuple[int, float], tuple[int, ...]] = {}
        self._others = self._ended = _ZERO
        self._leaving: list[tuple[int, ...]] = []
        #: Links that are in ``ended``.
        self.ended_links = 0

    @property
    def ended(self) -> Counters:
        """Sums of links that had series of their own and are gone."""
        return Counters(*self._ended)

    @property
    def folded(self) -> int:
        """Interfaces without series of their own."""
        return len(self._last)

    @property
    def others(self) -> Counters:
        return Counters(*self._others)

    def select(self, links: Sequence[Interface]) -> list[Interface]:
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
        self._ended = _sum([self._ended, *self._leaving])
        self.ended_links += len(self._leaving)
        self._leaving = [_values(link.counters) for link in chosen if link.is_gone]
        return chosen

    def _fold(self, rest: Sequence[Interface]) -> None:
        now = {_identity(link): _values(link.counters) for link in rest}
        brief = {_identity(link): _ZERO for link in rest if link.is_gone and link.since_s}
        self._others = _sum([self._others, *_increments(now, brief | self._last)])
        self._last = {_identity(link): now[_identity(link)] for link in rest if not link.is_gone}


def _sum(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*rows, strict=True)))


def _increments(
    now: dict[tuple[int, float], tuple[int, ...]], last: dict[tuple[int, float], tuple[int, ...]]
) -> Iterator[tuple[int, ...]]:
    for identity, counters in now.items():
        before = last.get(identity, counters)
        yield tuple(max(0, new - old) for new, old in zip(counters, before, strict=True))


def _identity(link: Interface) -> tuple[int, float]:
    """``since_s`` moves when an index returns for another device."""
    return link.index, link.since_s
