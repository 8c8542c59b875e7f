"""Where flows are shown: a live table on a terminal, else plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, TextIO

from probe.view.flows import Flow, FlowTable
from probe.view.text import COLUMNS, cells, line

if TYPE_CHECKING:
    from rich.table import Table

_KEEP_ENDED_S = 10.0
_FRAME_LINES = 5  # title, header with its rules, and the cursor's line


class View(Protocol):
    """``refresh`` is called about once a second; ``close`` leaves the terminal usable."""

    def refresh(self, status: str) -> None: ...

    def close(self) -> None: ...


def open_view(flows: FlowTable, stream: TextIO | None = None) -> View:
    """A live table if ``stream`` (default: standard output) is a terminal."""
    stream = stream or sys.stdout
    return LiveTable(flows) if stream.isatty() else PlainLines(flows, stream)


class PlainLines:
    """One line per flow with news."""

    def __init__(self, flows: FlowTable, stream: TextIO) -> None:
        self._flows = flows
        self._stream = stream

    def refresh(self, status: str) -> None:
        now_s = time.time()
        for flow in self._flows.take_changed():
            self._stream.write(line(flow, now_s) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self.refresh("")


class LiveTable:
    """The newest flows that fit on the screen. rich is imported in this module and nowhere else."""

    def __init__(self, flows: FlowTable) -> None:
        from rich.console import Console
        from rich.live import Live

        self._flows = flows
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()

    def refresh(self, status: str) -> None:
        now_s = time.time()
        self._flows.forget_ended(now_s - _KEEP_ENDED_S)
        self._live.update(self._table(status, now_s), refresh=True)

    def close(self) -> None:
        self._live.stop()

    def _table(self, status: str, now_s: float) -> Table:
        newest = self._flows.newest(max(1, self._console.height - _FRAME_LINES))
        return _table(status, newest, now_s)


def print_flows(flows: FlowTable, stream: TextIO | None = None) -> None:
    """What is new in ``flows``, whose own latest time is now: a table on a terminal, else lines."""
    stream = stream or sys.stdout
    now_s = flows.latest_s
    changed = flows.take_changed()
    if not stream.isatty():
        stream.writelines(line(flow, now_s) + "\n" for flow in changed)
        stream.flush()
    elif changed:
        from rich.console import Console

        Console(file=stream).print(_table(f"{len(changed)} flows", changed, now_s))


def _table(status: str, flows: Iterable[Flow], now_s: float) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(status), title_justify="left", box=box.SIMPLE_HEAD, expand=True,
                  pad_edge=False, padding=(0, 1, 0, 0))  # fmt: skip
    for name in COLUMNS:
        number = name in ("sent", "received", "age")
        table.add_column(name, justify="right" if number else "left", no_wrap=True,
                         overflow="ellipsis")  # fmt: skip
    for flow in flows:
        # Text, not markup: a process may be called [red].
        table.add_row(*map(Text, cells(flow, now_s)), style="dim" if flow.ended else "")
    return table
