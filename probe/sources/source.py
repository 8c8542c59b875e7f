"""The interface of every source of flow ends."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from probe.flow.batch import FlowBatch
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows


class Source(Protocol):
    """Reads rows of flow ends from ``open`` to ``close``. ``open`` raises KernelError."""

    owners: OwnerTable
    #: The kernel hooks to which it is attached, for bug reports.
    hooks: list[str]
    #: The duration of the latest ``read``, in the kernel and for its answers.
    snapshot_ns: int
    #: The processor time of that, which other programs' load does not increase.
    snapshot_cpu_ns: int
    #: The value in the ``netns`` column for the probe's network namespace, 0 if unknown.
    host_netns: int
    #: Whether ``read_events`` can return any.
    tells_events: bool

    def open(self) -> None: ...

    def fileno(self) -> int:
        """Returns a descriptor that is readable when it is time to ``drain``."""

    def read(self, is_last: bool = False) -> FlowBatch:
        """Returns all flow ends with traffic since the last read, and all that ended.

        With ``is_last`` it also returns those that would wait for the next read, because metering
        may end.
        """

    def drain(self) -> FlowBatch:
        """Returns the flow ends that ended since the last read."""

    def read_events(self) -> Rows:
        """Returns the caller's own EVENT_DTYPE: events since the last call, oldest first."""

    def losses(self) -> dict[str, int]:
        """Returns what was missed, by cause, never reset."""

    def wants_sweep(self) -> bool:
        """Returns True if so many owners are new that a sweep should come early."""

    def sweep_owners(self, in_use: Collection[int]) -> list[int]:
        """Forgets owners that have ended and that nothing names, and returns their indices."""

    def close(self) -> None: ...
