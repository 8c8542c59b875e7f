"""Makes the tables of destinations and their options from the declarations of all kinds."""

from __future__ import annotations

from collections.abc import Iterator

from docs.make.text import code, table
from probe.run.destinations import KINDS, options_of_kinds

_INTRODUCTION = """
## Destinations

`-e URL` may be given often. Options follow a `?` and are joined by `&`, as in
`ipfix://192.0.2.7:4739?profile=nfdump&pace=8000000`. [Destinations](destinations.md) explains them.
"""


def destination_tables() -> Iterator[str]:
    """Yields the lines of the section on destinations."""
    yield _INTRODUCTION
    yield from table(
        ("URL", "default port", "what it is", "needs"),
        (
            (_shown(kind.form), str(kind.port or ""), kind.help, _needs(kind.extra))
            for kind in KINDS
        ),
    )
    yield ""
    yield from table(("option", "value", "default", "for", "meaning"), _options())


def _options() -> Iterator[tuple[str, ...]]:
    for options, schemes in options_of_kinds():
        names = ", ".join(code(option.name) for option in options)
        first = options[0]
        default = "must be given" if first.is_required else first.default
        yield names, code(first.values), default, ", ".join(map(code, schemes)), first.help


def _shown(form: str) -> str:
    """Returns the form of a URL, with each URL as code and the other words as text."""
    return " ".join(
        code(word.rstrip(",")) + "," * word.endswith(",") if ":" in word else word
        for word in form.split()
    )


def _needs(extra: str) -> str:
    return code(f"pip install 'sockflow[{extra}]'") if extra else ""
