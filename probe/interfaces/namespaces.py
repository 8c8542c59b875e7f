"""Which network namespaces processes are in, and which process is in them: /proc, no descriptor."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

#: A process that is younger may still move: a runtime starts it before it makes the namespace.
_SETTLED_S = 1.0
#: Two per cent of one core, and that only while somebody asks.
_SHARE = 50


class NetworkNamespaces:
    """Inodes of the network namespaces that processes are in, each with one process of it.

    Processes that were seen are looked at again while they are young, and all of them at times.
    What may not be read (another user's processes, without privilege) is not there.
    """

    def __init__(
        self,
        proc: str = "/proc",
        monotonic: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.thread_time,
    ) -> None:
        self._proc, self._monotonic, self._used = proc, monotonic, used
        self._seen: dict[int, tuple[int, float]] = {}
        #: No look before this time (monotonic).
        self.due = 0.0

    def scan(self, everything: bool = False) -> dict[int, int] | None:
        """inode -> process id, the lowest; None: too soon after the last one to look again."""
        started = self._monotonic()
        if started < self.due:
            return None
        used = self._used()
        seen = {} if everything else self._seen
        self._seen = {pid: self._look(pid, seen.get(pid), started) for pid in self._processes()}
        found: dict[int, int] = {}
        for pid, (inode, _) in self._seen.items():
            if inode:
                found.setdefault(inode, pid)
        self.due = started + _SHARE * (self._used() - used)
        return found

    def is_in(self, pid: int, inode: int) -> bool:
        """Whether the process lives, and is in that network namespace."""
        return self._read(pid) == inode

    def _processes(self) -> list[int]:
        return sorted(int(name) for name in os.listdir(self._proc) if name.isdigit())

    def _look(self, pid: int, seen: tuple[int, float] | None, now: float) -> tuple[int, float]:
        if seen and now - seen[1] > _SETTLED_S:
            return seen
        return self._read(pid), seen[1] if seen else now

    def _read(self, pid: int) -> int:
        try:
            return os.stat(f"{self._proc}/{pid}/ns/net").st_ino
        except OSError:
            return 0
