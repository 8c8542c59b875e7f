"""Makes events of containers that start and stop from the kernel half's events of cgroups.

A container starts when the first program is executed in its cgroup. The event names this process,
and so does the event of the container's end. If nothing is executed in its cgroup, the container is
reported without a process, at the latest when it ends.
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

#: Kinds of enum event_kind in bpf/flow.h that are no EventKind: flows have no kind above 63.
CGROUP_MADE, CGROUP_REMOVED, CGROUP_ENTERED = 64, 65, 66
#: The time between the cgroup and the first program of a container; then it starts without one.
_PATIENCE_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _Told:
    """An event of a container, or its start while that waits for a process."""

    kind: int
    time_ns: int
    cookie: int
    owner: int


class ContainerEvents:
    """Converts events; ``owners`` is the table that the rows' owner column indexes."""

    def __init__(self, owners: OwnerTable) -> None:
        self._owners = owners
        self._made: dict[str, _Told] = {}  # container id -> a start that waits for a process
        self._running: dict[str, int] = {}  # container id -> owner, if a process is known

    def observe(self, rows: Rows, now_ns: int) -> Rows:
        """Converts EVENT_DTYPE with kinds of the kernel half to EventKind, oldest first."""
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
        """Returns the owners that later events will name."""
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
            return []  # no container, or a part of one that runs already
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
    """Sorts rows, because the end of a connection may be reported some time after it happened."""
    times: NDArray[np.int64] = rows["time_ns"]
    if (times[1:] >= times[:-1]).all():
        return rows
    return take_rows(rows, np.argsort(times, kind="stable"))
