"""Measures how much of the machine others use, so that disturbed windows can be dropped."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_KTHREADD = 2


def foreign_cpu_s() -> float:
    """Returns the CPU seconds so far of processes that are neither ours nor kernel threads.

    A process is ours if we, or a process that we started, lead its session.
    """
    processes = list(_processes())
    parents = {pid: parent for pid, parent, _, _ in processes}
    us = os.getpid()

    def is_ours(pid: int, session: int) -> bool:
        return pid == us or parents.get(session) == us

    return sum(
        spent
        for pid, parent, session, spent in processes
        if parent != _KTHREADD and not is_ours(pid, session)
    )


def _processes() -> Iterator[tuple[int, int, int, float]]:
    """Yields (pid, parent, session, CPU seconds with those of ended children)."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            ticks = sum(map(int, fields[11:15]))
            yield int(path.parent.name), int(fields[1]), int(fields[3]), ticks * _TICK_S
