"""What every source of flow ends is."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from probe.flow.batch import FlowBatch
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows


class Source(Protocol):
    """Yields rows of flow ends. Inert until ``open``, which raises KernelError."""

    owners: OwnerTable
    #: What it is attached to, for bug reports.
    hooks: list[str]
    #: How long the latest ``read`` took in the kernel and over its answers.
    snapshot_ns: int
    #: Our processor time of that, which does not grow where others keep the machine busy.
    snapshot_cpu_ns: int
    #: What rows of our own network namespace have in their ``netns`` column, 0 when unknown.
    host_netns: int
    #: Whether ``read_events`` ever has any.
    tells_events: bool

    def open(self) -> None: ...

    def fileno(self) -> int:
        """Readable when it is time to ``drain``."""

    def read(self, is_last: bool = False) -> FlowBatch:
        """All flow ends with traffic since the last read, and all that ended.

        ``is_last``: those too that would wait for the next read to know more; metering may end.
        """

    def drain(self) -> FlowBatch:
        """What ended since the last read."""

    def read_events(self) -> Rows:
        """EVENT_DTYPE: what happened since the last call, oldest first; the caller's own."""

    def losses(self) -> dict[str, int]:
        """What was missed, by cause, never reset."""

    def wants_sweep(self) -> bool:
        """Whether there are so many new owners that they should be swept before it is due."""

    def sweep_owners(self, in_use: Collection[int]) -> list[int]:
        """Forgets owners that are gone and that nothing names; their indices."""

    def close(self) -> None: ...
