"""Numbers and flows as plain text; the columns that live tables and lines share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TextIO

from probe.printable import printable
from probe.units import age, milliseconds, octets
from probe.view.flows import End, Flow

COLUMNS = ("proto", "client", "server", "sent", "received", "process", "user", "container",
           "age", "state")  # fmt: skip
#: With what the sockets measured.
ALL_COLUMNS = (*COLUMNS[:5], "rtt", "resent", *COLUMNS[5:])
NUMBERS = ("sent", "received", "rtt", "resent", "age")


def write_lines(stream: TextIO, lines: Iterable[str]) -> None:
    """All lines of text and JSON that views write go through here; what is drawn anew goes through
    ``terminal``. Nothing that would drive the terminal gets past either."""
    stream.writelines(f"{printable(line)}\n" for line in lines)
    stream.flush()


def cells(flow: Flow, now_s: float, columns: Sequence[str] = COLUMNS) -> tuple[str, ...]:
    """The texts of ``columns``; ``sent`` is what the client sent, ``received`` what it got."""
    return tuple(_CELLS[name](flow, now_s) for name in columns)


def line(flow: Flow, now_s: float) -> str:
    """One flow on one line, for logs and pipes."""
    proto, client, server, *others = cells(flow, now_s, ALL_COLUMNS)
    named = zip(ALL_COLUMNS[3:], others, strict=True)
    return ", ".join(
        [f"{proto} {client} > {server}", *(f"{name} {value}" for name, value in named if value)]
    )


def aligned(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[str]
) -> Iterator[str]:
    """A header and ``rows`` as lines, each column as wide as it must be; numbers to the right."""
    table = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        padded = (
            text.rjust(width) if name in numbers else text.ljust(width)
            for name, text, width in zip(columns, row, widths, strict=True)
        )
        yield "  ".join(padded).rstrip()


def _volume(end: End) -> str:
    return f"{end.packets} p {octets(end.octets)}"


def _both(client: str, server: str) -> str:
    """'curl(12) > nginx(7)' where both ends are known, '> nginx(7)' for the server's alone."""
    if not server:
        return client
    return client if client == server else f"{client} > {server}".lstrip()


_CELLS: dict[str, Callable[[Flow, float], str]] = {
    "proto": lambda flow, now_s: flow.protocol,
    "client": lambda flow, now_s: flow.client.endpoint,
    "server": lambda flow, now_s: flow.server.endpoint,
    "sent": lambda flow, now_s: _volume(flow.client),
    "received": lambda flow, now_s: _volume(flow.server),
    "rtt": lambda flow, now_s: milliseconds(flow.rtt_us),
    "resent": lambda flow, now_s: str(flow.retransmitted or ""),
    "process": lambda flow, now_s: _both(flow.client.process, flow.server.process),
    "user": lambda flow, now_s: _both(flow.client.user, flow.server.user),
    "container": lambda flow, now_s: _both(flow.client.container, flow.server.container),
    "age": lambda flow, now_s: age(flow.age_s(now_s)),
    "state": lambda flow, now_s: flow.state,
}
