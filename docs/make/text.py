"""Tables and notes in Markdown, for the pages that are made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def made_by(sources: str) -> str:
    """Returns the comment at the top of a made page."""
    return f"<!-- Made by `make docs` from {sources}. Change those, not this page. -->\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yields the lines of a table. A | in a cell is escaped."""
    yield _row(heads)
    yield "|" + "---|" * len(heads)
    yield from map(_row, rows)


def code(text: str) -> str:
    """Returns ``text`` set as code, or nothing for nothing."""
    return f"`{text}`" if text else ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
