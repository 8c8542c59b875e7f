"""The terminal as a place that is drawn anew. rich is imported in this module and nowhere else."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TextIO

from probe.printable import printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_FRAME_LINES = 5  # title, header with its rules, and the cursor's line


@dataclass(frozen=True, slots=True)
class Drawn:
    """A table. ``numbers``: columns aligned to the right; ``dim``: rows that matter less."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Collection[str] = ()
    dim: Collection[int] = ()


class Terminal:
    """Untouched until something is shown; ``close`` leaves it usable, with what was shown last."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False)
        self._echo = _ControlEcho()

    @property
    def rows(self) -> int:
        """How many rows of a table fit, at least 1."""
        return max(1, self._console.height - _FRAME_LINES)

    def show_table(self, drawn: Drawn) -> None:
        self._show(make_table(drawn))

    def show_lines(self, title: str, lines: Sequence[str]) -> None:
        from rich.text import Text

        shown = map(printable, [title, "", *lines])
        text = Text("\n".join(shown), no_wrap=True, overflow="ellipsis")
        text.stylize("italic", 0, len(title))
        self._show(text)

    def close(self) -> None:
        self._live.stop()
        self._echo.restore()

    def _show(self, drawn: Table | Text) -> None:
        if not self._live.is_started:
            self._echo.suppress()
            self._live.start()
        self._live.update(drawn, refresh=True)


class _ControlEcho:
    """The ^C that the terminal writes for Ctrl-C, into what is drawn: then one line stays behind.

    Nothing happens without a terminal, or in the background, where setting it would stop us.
    """

    def __init__(self) -> None:
        self._flags: int | None = None

    def suppress(self) -> None:
        with contextlib.suppress(OSError, termios.error):
            terminal = sys.stdout.fileno()
            if os.tcgetpgrp(terminal) == os.getpgrp():
                flags = termios.tcgetattr(terminal)[3]
                _set_local_flags(terminal, flags & ~termios.ECHOCTL)
                self._flags = flags

    def restore(self) -> None:
        if self._flags is not None:
            with contextlib.suppress(OSError, termios.error):
                _set_local_flags(sys.stdout.fileno(), self._flags)
            self._flags = None


def _set_local_flags(terminal: int, flags: int) -> None:
    settings = termios.tcgetattr(terminal)
    settings[3] = flags
    termios.tcsetattr(terminal, termios.TCSANOW, settings)


def print_table(stream: TextIO, drawn: Drawn) -> None:
    """Once, to a terminal."""
    from rich.console import Console

    Console(file=stream).print(make_table(drawn))


def make_table(drawn: Drawn) -> Table:
    """Returns ``drawn`` as rich draws it: cells are text and never markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = Text(printable(drawn.title)) if drawn.title else None
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, expand=True,
                  pad_edge=False, padding=(0, 1, 0, 0))  # fmt: skip
    for name in drawn.columns:
        side: Literal["left", "right"] = "right" if name in drawn.numbers else "left"
        table.add_column(printable(name), justify=side, no_wrap=True, overflow="ellipsis")
    for number, row in enumerate(drawn.rows):
        # Text, not markup: a process may be called [red].
        texts = (Text(printable(text)) for text in row)
        table.add_row(*texts, style="dim" if number in drawn.dim else "")
    return table
