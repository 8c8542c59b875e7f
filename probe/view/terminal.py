"""Draws tables and lines on the terminal, live. Only this module imports rich."""

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

_FRAME_LINES = 5  # title, header with its rules, and the line of the cursor


@dataclass(frozen=True, slots=True)
class Drawn:
    """The content of a table.

    ``numbers`` are the columns aligned to the right. ``dim`` are the rows that matter less.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Collection[str] = ()
    dim: Collection[int] = ()


class Terminal:
    """The terminal, which is left alone until something is shown.

    ``close`` leaves it usable, with the last picture on it.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False)
        self._echo = _ControlEcho()

    @property
    def rows(self) -> int:
        """Returns how many rows of a table fit, at least 1."""
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
    """The switch for the ^C that a terminal writes for Ctrl-C, which a live picture turns off.

    A ^C within the picture would leave one of its lines behind. Nothing happens without a terminal,
    or in the background, where the change of a setting would stop this process.
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
    """Prints a table to a terminal, once."""
    from rich.console import Console

    Console(file=stream).print(make_table(drawn))


def make_table(drawn: Drawn) -> Table:
    """Returns ``drawn`` as a table of rich. Its cells are text and never markup."""
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
        # As markup, a process with the name [red] would change the colour.
        texts = (Text(printable(text)) for text in row)
        table.add_row(*texts, style="dim" if number in drawn.dim else "")
    return table
