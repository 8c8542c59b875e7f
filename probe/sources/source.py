"""What every source of flow ends is, and which one a host gets."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Protocol

from probe.errors import KernelError
from probe.flow.batch import FlowBatch
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows
from probe.owners.users import Users
from probe.sources.registry import SOURCES, SourceContext, SourceKind, find_source

log = logging.getLogger(__name__)


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


def open_source(
    name: str,
    owners: OwnerTable,
    users: Users,
    command_lines: bool,
    events: bool = False,
) -> Source:
    """Returns the source of this name, open. ``auto`` takes the first that this host can run.

    A source that tells no events is opened all the same, with a warning if ``events`` are wanted:
    flows matter most. Raises KernelError where no source can run.
    """
    context = SourceContext(owners, users, command_lines, events)
    chosen = find_source(name)
    kinds = [chosen] if chosen else [kind for kind in SOURCES if kind.is_automatic]
    for kind, next_kind in zip(kinds, [*kinds[1:], None], strict=True):
        try:
            return _open(kind, context)
        except KernelError as error:
            if next_kind is None:
                raise
            text = "no %s here, metering by %s instead: %s"
            log.warning(text, kind.title, next_kind.title, error)
    raise KernelError(f"there is no source {name}")


def _open(kind: SourceKind, context: SourceContext) -> Source:
    if context.events and not kind.tells_events:
        log.warning("no events: %s does not tell what happens to sockets", kind.title)
    source = kind.make(context)
    source.open()
    return source
