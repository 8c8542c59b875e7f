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
    """``ebpf``, ``netlink``, ``ebpf+netlink``, or ``auto``: eBPF where it can run, else Netlink,
    saying why.

    ``events`` are asked for; Netlink goes on without them, since flows are what a probe is for.
    Raises KernelError.
    """
    if name == "ebpf+netlink":
        return _open_both(owners, users, command_lines, events)
    if name != "netlink":
        from probe.sources.ebpf import EbpfSource

        source: Source = EbpfSource(owners, users, command_lines=command_lines, events=events)
        try:
            source.open()
        except KernelError as error:
            if name == "ebpf":
                raise
            log.warning("no eBPF here, metering by Netlink instead: %s", error)
        else:
            return source
    if events:
        log.warning("no events: Netlink tells of sockets, not of what happens to them")
    from probe.sources.netlink import NetlinkSource

    source = NetlinkSource(owners, users, command_lines=command_lines)
    source.open()
    return source


def _open_both(owners: OwnerTable, users: Users, command_lines: bool, events: bool) -> Source:
    from probe.sources.ebpf import EbpfSource
    from probe.sources.merged import Claims, MergedSource
    from probe.sources.netlink import NetlinkSource

    claims = Claims()
    source = MergedSource(
        EbpfSource(owners, users, command_lines=command_lines, events=events),
        NetlinkSource(owners, users, command_lines, claims.are_known),
        claims,
    )
    source.open()
    return source
