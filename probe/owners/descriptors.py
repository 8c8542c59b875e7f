"""Finds the process that holds a socket, in a bounded time per call.

The kernel has no index from a socket to its holders. So the search may have to read all links of
/proc/PID/fd, of all processes. It begins with processes that recently held wanted sockets, and with
the newest descriptors of each process. What it cannot read in time it reads in the next call.

The bound is processor time. On a busy host the clock would count the time of other processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator

_MOST_FAVOURITES = 256
_LOOKS_PER_CLOCK = 64


class DescriptorSearch:
    """A search that goes on from call to call, in rounds through all processes.

    ``unreadable`` counts the processes of the latest round whose descriptors the probe may not
    read. ``given_up`` holds the sockets that a whole round did not find; callers remove them.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self.unreadable = 0
        self.given_up: set[int] = set()
        self._proc = proc
        self._pending: dict[int, int] = {}  # inode -> the round in which it was asked for
        self._favourites: dict[int, None] = {}
        self._links: Iterator[tuple[int, int]] = iter(())
        self._round = 0
        self._refused = 0

    def search(
        self,
        inodes: Iterable[int],
        processes: list[int],
        budget_ns: int,
        likely: Iterable[int] = (),
    ) -> dict[int, int]:
        """Returns socket inode -> process, for sockets of this call and of earlier ones.

        ``processes`` are to be searched, the likeliest first. ``likely`` are a few processes to
        look at before the round goes on.
        """
        known = len(self._pending)
        for inode in inodes:
            self._pending.setdefault(inode, self._round)
        if len(self._pending) == known:
            likely = ()
        found: dict[int, int] = {}
        now = time.thread_time_ns()
        deadline = now + budget_ns
        favourites = [*reversed(self._favourites), *likely]
        self._look(self._read_links(favourites), found, now + budget_ns // 2)
        for _ in range(2):  # the rest of a round, and all of the next one
            if not self._look(self._links, found, deadline) or not self._pending:
                break
            self._begin_round(processes)
        return found

    def forget(self, inodes: Iterable[int]) -> None:
        """Stops the search for sockets that are closed."""
        for inode in inodes:
            self._pending.pop(inode, None)

    def _begin_round(self, processes: list[int]) -> None:
        stale = [inode for inode, came in self._pending.items() if came < self._round]
        self.forget(stale)
        self.given_up.update(stale)
        self.unreadable, self._refused = self._refused, 0
        self._round += 1
        self._links = self._read_links(processes)

    def _look(self, links: Iterator[tuple[int, int]], found: dict[int, int], deadline: int) -> bool:
        """Reads links until all sockets are found. Returns False if the time ran out."""
        if not self._pending:
            return True
        for looks, (pid, inode) in enumerate(links, 1):
            if inode in self._pending:
                found[inode] = pid
                del self._pending[inode]
                self._favour(pid)
                if not self._pending:
                    return True
            if looks % _LOOKS_PER_CLOCK == 0 and time.thread_time_ns() > deadline:
                return False
        return True

    def _favour(self, pid: int) -> None:
        self._favourites.pop(pid, None)
        self._favourites[pid] = None
        if len(self._favourites) > _MOST_FAVOURITES:
            del self._favourites[next(iter(self._favourites))]

    def _read_links(self, processes: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Yields (process, socket inode or 0) for each descriptor, a process's newest first."""
        for pid in processes:
            folder = f"{self._proc}/{pid}/fd"
            try:
                names = os.listdir(folder)
            except PermissionError:
                self._refused += 1
                yield pid, 0
                continue
            except OSError:
                self._favourites.pop(pid, None)
                yield pid, 0
                continue
            for name in reversed(names):
                try:
                    link = os.readlink(f"{folder}/{name}")
                except PermissionError:  # CAP_DAC_READ_SEARCH suffices for the folder only
                    self._refused += 1
                    yield pid, 0
                    break
                except OSError:
                    continue
                yield pid, int(link[8:-1]) if link.startswith("socket:[") else 0
