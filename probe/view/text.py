"""Writes flows as plain text, in the columns that live tables and lines share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TextIO

from probe.printable import printable
from probe.units import age, milliseconds, octets
from probe.view.flows import End, Flow

COLUMNS = ("proto", "client", "server", "sent", "received", "process", "user", "container",
           "age", "state")  # fmt: skip
#: The columns with the measurements of sockets.
ALL_COLUMNS = (*COLUMNS[:5], "rtt", "resent", *COLUMNS[5:])
NUMBERS = ("sent", "received", "rtt", "resent", "age")


def write_lines(stream: TextIO, lines: Iterable[str]) -> None:
    """Writes lines of text or JSON, without characters that would drive the terminal.

    All views write their lines here. Live tables go through ``terminal``, which is as strict.
    """
    stream.writelines(f"{printable(line)}\n" for line in lines)
    stream.flush()


def cells(flow: Flow, now_s: float, columns: Sequence[str] = COLUMNS) -> tuple[str, ...]:
    """Returns the texts of ``columns``. The client sent ``sent``, and got ``received``."""
    return tuple(_CELLS[name](flow, now_s) for name in columns)


def line(flow: Flow, now_s: float) -> str:
    """Returns one flow as one line, for logs and pipes."""
    proto, client, server, *others = cells(flow, now_s, ALL_COLUMNS)
    named = zip(ALL_COLUMNS[3:], others, strict=True)
    return ", ".join(
        [f"{proto} {client} > {server}", *(f"{name} {value}" for name, value in named if value)]
    )


def aligned(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[str]
) -> Iterator[str]:
    """Yields a header and ``rows`` as lines, in aligned columns; ``numbers`` go to the right."""
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
    """Returns 'curl(12) > nginx(7)', or '> nginx(7)' if only the server is known."""
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
