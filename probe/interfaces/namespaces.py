"""Finds the network namespaces of processes, and one process in each, through /proc.

Theory of operation. A scan reads the namespace's inode of each process and opens no descriptor. A
process may change its namespace shortly after its start. So processes are read again until they
have been known for a second, and all of them if the caller asks for it. The next scan is due when
this one amounts to two per cent of one core.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

#: A younger process may still move: a runtime starts it before it makes the namespace.
_SETTLED_S = 1.0
#: Scans take at most two per cent of one core, and only while they are asked for.
_SHARE = 50


class NetworkNamespaces:
    """The inodes of network namespaces, each with one process.

    Namespaces whose processes the probe may not read are left out, such as those of another user
    without privilege.
    """

    def __init__(
        self,
        proc: str = "/proc",
        monotonic: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.thread_time,
    ) -> None:
        self._proc, self._monotonic, self._used = proc, monotonic, used
        self._seen: dict[int, tuple[int, float]] = {}
        #: The earliest time of the next scan (monotonic).
        self.due = 0.0

    def scan(self, everything: bool = False) -> dict[int, int] | None:
        """Returns inode -> the lowest process id, or None if the next scan is not due yet.

        With ``everything`` it reads all processes again, not only the young ones.
        """
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
        """Returns True if the process lives and is in that network namespace."""
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
