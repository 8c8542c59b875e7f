"""Containers that start and stop, from what the kernel half tells of cgroups.

A container starts when the first program is executed in its cgroup: that is the process that the
event names, and the end of the container names it again. One in whose cgroup nothing is executed
is told of without a process, at the latest when it is gone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from probe.flow.codes import EventKind, OwnerSource
from probe.flow.columns import EVENT_DTYPE
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows, concatenate_rows, take_rows
from probe.owners.container import is_container

#: Of enum event_kind in bpf/flow.h. They are no EventKind: flows have no kind from 64 on.
CGROUP_MADE, CGROUP_REMOVED, CGROUP_ENTERED = 64, 65, 66
#: How long after its cgroup a container has time to execute something.
_PATIENCE_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _Told:
    """One event of a container, or its beginning that waits for a process."""

    kind: int
    time_ns: int
    cookie: int
    owner: int


class ContainerEvents:
    """``owners`` is what the rows' owner column indexes."""

    def __init__(self, owners: OwnerTable) -> None:
        self._owners = owners
        self._made: dict[str, _Told] = {}  # by container id: those that wait for a process
        self._running: dict[str, int] = {}  # container id -> owner, where a process is known

    def observe(self, rows: Rows, now_ns: int) -> Rows:
        """EVENT_DTYPE with the kernel half's kinds and times -> with ours, oldest first."""
        of_cgroups = np.flatnonzero(rows["kind"] >= CGROUP_MADE)
        told: list[_Told] = []
        for at in of_cgroups.tolist():
            told += self._judge(rows[at])
        told += self._lose_patience(now_ns)
        if len(of_cgroups):
            rows = take_rows(rows, np.flatnonzero(rows["kind"] < CGROUP_MADE))
        if told:
            rows = concatenate_rows([rows, _event_rows(told)])
        return _by_time(rows)

    def owners_in_use(self) -> set[int]:
        """Owners that later events will name."""
        return {*self._running.values(), *(made.owner for made in self._made.values())}

    def _judge(self, row: np.void) -> list[_Told]:
        owner = int(row["owner"])
        container, cgroup = self._owners[owner].container.id, self._owners[owner].cgroup
        told = _Told(int(row["kind"]), int(row["time_ns"]), int(row["cookie"]), owner)
        if told.kind == CGROUP_ENTERED:
            return self._start(container, told)
        if not is_container(cgroup):
            return []
        if told.kind == CGROUP_MADE:
            self._made[container] = replace(told, kind=EventKind.CONTAINER_START)
            return []
        begun = [self._made.pop(container)] if container in self._made else []
        known = self._running.pop(container, owner)
        return [*begun, _Told(EventKind.CONTAINER_STOP, told.time_ns, told.cookie, known)]

    def _start(self, container: str, entered: _Told) -> list[_Told]:
        made = self._made.pop(container, None)
        if made is None:
            return []  # no container, or a part of one that runs
        self._running[container] = entered.owner
        return [_Told(EventKind.CONTAINER_START, entered.time_ns, made.cookie, entered.owner)]

    def _lose_patience(self, now_ns: int) -> list[_Told]:
        late = [key for key, made in self._made.items() if now_ns - made.time_ns > _PATIENCE_NS]
        return [self._made.pop(key) for key in late]


def _event_rows(told: list[_Told]) -> Rows:
    rows: Rows = np.zeros(len(told), EVENT_DTYPE)
    for name in ("kind", "time_ns", "cookie", "owner"):
        rows[name] = [getattr(one, name) for one in told]
    rows["owner_source"] = OwnerSource.SOCKET_CALL
    rows["count"] = 1
    return rows


def _by_time(rows: Rows) -> Rows:
    """The ends of connections may be told of some time after they happened."""
    times: NDArray[np.int64] = rows["time_ns"]
    if (times[1:] >= times[:-1]).all():
        return rows
    return take_rows(rows, np.argsort(times, kind="stable"))
