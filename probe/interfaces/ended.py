"""Links that are gone, with their last counters, until everybody who tells of them has done so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from probe.flow.owner import ContainerNames

if TYPE_CHECKING:
    from probe.interfaces.table import Link

#: Kept for readers; who reads once a minute misses some where 68 links a second come and go.
_KEPT = 4096


class EndedLinks:
    """Nothing is kept where nobody reads.

    ``find_names``: id of a container -> names. It is asked when a link is read: names come late.
    """

    def __init__(self, find_names: Callable[[str], ContainerNames | None]) -> None:
        self._find_names = find_names
        self._links: deque[Link] = deque(maxlen=_KEPT)
        self._count = 0
        self._has_readers = False
        #: Links that left before a reader was told of them, for each of these readers.
        self.untold = 0

    def add(self, link: Link) -> None:
        if self._has_readers:
            self._links.append(link)
            self._count += 1

    def reader(self) -> Callable[[], list[Link]]:
        """Gives each link that ends from now on once, the oldest first."""
        self._has_readers = True
        told = self._count

        def read() -> list[Link]:
            nonlocal told
            if told == self._count:
                return []
            first = self._count - len(self._links)
            self.untold += max(0, first - told)
            fresh = list(self._links)[max(0, told - first) :]
            told = self._count
            return [self._named(link) for link in fresh]

        return read

    def _named(self, link: Link) -> Link:
        if link.names or not link.container_id:
            return link
        return replace(link, names=self._find_names(link.container_id))
