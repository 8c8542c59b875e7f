"""The registry of sources, with one entry for each. Help, errors and pages read it.

The opener of a source imports its module, so that only the source in use takes memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from probe.errors import KernelError
from probe.flow.owner import OwnerTable
from probe.owners.users import Users
from probe.sources.source import Source

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SourceContext:
    """The arguments of a source: its table of owners, and what the user wants to know."""

    owners: OwnerTable
    users: Users
    command_lines: bool
    events: bool


@dataclass(frozen=True, slots=True)
class SourceKind:
    """One kind of source; ``make`` returns it before it is opened.

    title: its name in texts. help: when to choose it, in one line. tells_events: whether it reports
    events of sockets. is_automatic: whether ``auto`` tries it, in the order of SOURCES.
    """

    name: str
    title: str
    help: str
    make: Callable[[SourceContext], Source]
    tells_events: bool
    is_automatic: bool = True


def _make_ebpf(context: SourceContext) -> Source:
    from probe.sources.ebpf import EbpfSource

    return EbpfSource(
        context.owners,
        context.users,
        command_lines=context.command_lines,
        events=context.events,
    )


def _make_netlink(context: SourceContext) -> Source:
    from probe.sources.netlink import NetlinkSource

    return NetlinkSource(context.owners, context.users, command_lines=context.command_lines)


def _make_both(context: SourceContext) -> Source:
    from probe.sources.ebpf import EbpfSource
    from probe.sources.merged import Claims, MergedSource
    from probe.sources.netlink import NetlinkSource

    claims = Claims()
    return MergedSource(
        EbpfSource(
            context.owners,
            context.users,
            command_lines=context.command_lines,
            events=context.events,
        ),
        NetlinkSource(context.owners, context.users, context.command_lines, claims.are_known),
        claims,
    )


SOURCES: tuple[SourceKind, ...] = (
    SourceKind("ebpf", "eBPF", "TCP and UDP, needs privileges", _make_ebpf, tells_events=True),
    SourceKind("netlink", "Netlink", "TCP only, any user", _make_netlink, tells_events=False),
    SourceKind(
        "ebpf+netlink",
        "eBPF and Netlink",
        "run both; Netlink covers sockets that eBPF cannot track",
        _make_both,
        tells_events=True,
        is_automatic=False,
    ),
)
#: The name that stands for the first source that this host can run.
AUTO = "auto"


def source_names() -> tuple[str, ...]:
    """Returns all names that ``--collector`` takes."""
    return (AUTO, *(kind.name for kind in SOURCES))


def find_source(name: str) -> SourceKind | None:
    """Returns the source of this name, or None for ``auto`` and for unknown names."""
    return next((kind for kind in SOURCES if kind.name == name), None)


def describe_sources() -> Iterator[str]:
    """Yields a line of help for each name that ``--collector`` takes."""
    order = ", else ".join(kind.name for kind in SOURCES if kind.is_automatic)
    yield f"{AUTO}: {order}"
    for kind in SOURCES:
        yield f"{kind.name}: {kind.help}"


def open_source(
    name: str,
    owners: OwnerTable,
    users: Users,
    command_lines: bool,
    events: bool = False,
) -> Source:
    """Returns the open source of this name; ``auto`` takes the first that this host can run.

    A source without events is opened even if ``events`` are wanted, with a warning, because flows
    matter most. Raises KernelError if no source can run.
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
