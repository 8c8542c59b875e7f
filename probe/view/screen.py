"""Shows flows as a live table on a terminal, else as plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Protocol, TextIO

from probe.view.flows import Flow, FlowTable
from probe.view.terminal import Drawn, Terminal, print_table
from probe.view.text import COLUMNS, NUMBERS, cells, line, write_lines

_KEEP_ENDED_S = 10.0


class View(Protocol):
    """A view of flows, refreshed about once a second. ``close`` leaves the terminal usable."""

    def refresh(self, status: str) -> None: ...

    def close(self) -> None: ...


def open_view(flows: FlowTable, stream: TextIO | None = None) -> View:
    """Returns a live table if ``stream`` (default: standard output) is a terminal, else lines."""
    stream = stream or sys.stdout
    return LiveTable(flows) if stream.isatty() else PlainLines(flows, stream)


class PlainLines:
    """A view that writes one line per flow with news."""

    def __init__(self, flows: FlowTable, stream: TextIO) -> None:
        self._flows = flows
        self._stream = stream

    def refresh(self, status: str) -> None:
        now_s = time.time()
        write_lines(self._stream, [line(flow, now_s) for flow in self._flows.take_changed()])

    def close(self) -> None:
        self.refresh("")


class LiveTable:
    """A live table of the newest flows that fit on the screen."""

    def __init__(self, flows: FlowTable) -> None:
        self._flows = flows
        self._terminal = Terminal()

    def refresh(self, status: str) -> None:
        now_s = time.time()
        self._flows.forget_ended(now_s - _KEEP_ENDED_S)
        newest = self._flows.newest(self._terminal.rows)
        self._terminal.show_table(_drawn(status, newest, now_s))

    def close(self) -> None:
        self._terminal.close()


def print_flows(flows: FlowTable, stream: TextIO | None = None) -> None:
    """Prints what is new in ``flows``, as a table on a terminal, else as lines.

    Ages count until the latest time in ``flows``, since a recording has its own clock.
    """
    stream = stream or sys.stdout
    now_s = flows.latest_s
    changed = flows.take_changed()
    if not stream.isatty():
        write_lines(stream, [line(flow, now_s) for flow in changed])
    elif changed:
        print_table(stream, _drawn(f"{len(changed)} flows", changed, now_s))


def _drawn(title: str, flows: Sequence[Flow], now_s: float) -> Drawn:
    dim = [number for number, flow in enumerate(flows) if flow.ended]
    return Drawn(title, COLUMNS, [cells(flow, now_s) for flow in flows], NUMBERS, dim)
