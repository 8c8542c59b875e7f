"""``python -m docs.make`` makes the pages anew; with ``--check`` it names those that are stale."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from docs.make.configuration import configuration_page
from docs.make.elements import elements_page
from docs.make.picture import flows_picture, shown_text

DOCS = Path(__file__).resolve().parents[1]
#: A path below ``docs/`` -> the function that makes its text.
MADE: Mapping[str, Callable[[], str]] = {
    "elements.md": elements_page,
    "configuration.md": configuration_page,
    "pictures/flows.svg": flows_picture,
}


def main() -> int:
    """Makes stale files, or checks them. Returns the exit status, 1 if ``--check`` found some."""
    parser = argparse.ArgumentParser(prog="python -m docs.make", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, name stale files")
    if not parser.parse_args().check:
        for path in stale():
            (DOCS / path).write_text(MADE[path](), "utf-8")
            print(f"made docs/{path}")
        return 0
    found = stale()
    for path in found:
        print(f"docs/{path} is stale: run `make docs`")
    return 1 if found else 0


def stale() -> list[str]:
    """Returns the paths of files that are missing or differ from the text that the code makes."""
    return [path for path, make in MADE.items() if _said(path, _read(path)) != _said(path, make())]


def _read(path: str) -> str:
    return (DOCS / path).read_text("utf-8") if (DOCS / path).is_file() else ""


def _said(path: str, text: str) -> str:
    """Returns the text to compare. Of a picture it is the words, as versions of rich differ."""
    return shown_text(text) if path.endswith(".svg") else text


if __name__ == "__main__":
    sys.exit(main())
