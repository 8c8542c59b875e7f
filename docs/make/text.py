"""Writes tables and notes in Markdown for the made pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def made_by(sources: str) -> str:
    """Returns the comment at the top of a made page."""
    return f"<!-- Made by `make docs` from {sources}. Change those, not this page. -->\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yields the lines of a table, and escapes each | in a cell."""
    yield _row(heads)
    yield "|" + "---|" * len(heads)
    yield from map(_row, rows)


def code(text: str) -> str:
    """Returns ``text`` as code in Markdown, or '' if it is empty."""
    return f"`{text}`" if text else ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
