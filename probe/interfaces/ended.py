"""Keeps interfaces that are gone, with their last counters, until every reader has read them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from probe.flow.owner import ContainerNames
from probe.interfaces.interface import Interface

#: The most that are kept. A reader once a minute misses some if 68 interfaces a second end.
_KEPT = 4096


class EndedInterfaces:
    """Keeps ended interfaces while there is a reader.

    find_names: returns the names of a container by its id. It is called when an interface is read,
    because names come late.
    """

    def __init__(self, find_names: Callable[[str], ContainerNames | None]) -> None:
        self._find_names = find_names
        self._interfaces: deque[Interface] = deque(maxlen=_KEPT)
        self._count = 0
        self._has_readers = False
        #: Interfaces that were dropped before a reader read them, counted for each such reader.
        self.untold = 0

    def add(self, interface: Interface) -> None:
        if self._has_readers:
            self._interfaces.append(interface)
            self._count += 1

    def reader(self) -> Callable[[], list[Interface]]:
        """Returns a function that gives each interface ending from now on once, in order."""
        self._has_readers = True
        told = self._count

        def read() -> list[Interface]:
            nonlocal told
            if told == self._count:
                return []
            first = self._count - len(self._interfaces)
            self.untold += max(0, first - told)
            fresh = list(self._interfaces)[max(0, told - first) :]
            told = self._count
            return [self._named(interface) for interface in fresh]

        return read

    def _named(self, interface: Interface) -> Interface:
        if interface.names or not interface.container_id:
            return interface
        return replace(interface, names=self._find_names(interface.container_id))
