"""Bounds the series of interfaces, and sums up all others in a counter that never falls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter

from probe.interfaces.interface import Counters, Interface

_values = attrgetter(*Counters.__slots__)
_ZERO: tuple[int, ...] = _values(Counters())


class BoundedInterfaces:
    """The first ``limit`` interfaces, which keep their own series until they are gone.

    An interface that is gone is selected once more, with its last counters. Then its counters go
    into ``ended``. The increments of all other interfaces are summed up in ``others``, so the sum
    does not fall when one of them goes. Their counts from before the first scrape are left out,
    unless the interface came and went between two scrapes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._own: set[tuple[int, float]] = set()
        self._last: dict[tuple[int, float], tuple[int, ...]] = {}
        self._others = self._ended = _ZERO
        self._leaving: list[tuple[int, ...]] = []
        #: The number of links in ``ended``.
        self.ended_links = 0

    @property
    def ended(self) -> Counters:
        """Returns the sums of links that had their own series and are gone."""
        return Counters(*self._ended)

    @property
    def folded(self) -> int:
        """Returns the number of interfaces without their own series."""
        return len(self._last)

    @property
    def others(self) -> Counters:
        return Counters(*self._others)

    def select(self, links: Sequence[Interface]) -> list[Interface]:
        """Returns the links with their own series, and adds the rest to ``others``."""
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
    """Returns a key of a link: a new device with the same index has another ``since_s``."""
    return link.index, link.since_s
