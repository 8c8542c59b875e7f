"""Holds the registry of destinations, with one line for each kind.

The registry is here because only ``run/`` may import every package that offers destinations. Lower
packages, such as the configuration, keep URLs as text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from probe.export.destinations import FILE, IPFIX, IPFIX_TCP, IPFIX_TLS, NETFLOW9
from probe.export.kind import DestinationKind, Option, UnknownOption, wrong
from probe.export.transports.destination import Destination
from probe.jsonlines.destinations import JSON, KAFKA
from probe.ntopng.destinations import ZMQ

if TYPE_CHECKING:
    from probe.export.sink import Sink
    from probe.export.sink_factory import SinkFactory

#: All kinds, in the order in which help and pages show them.
KINDS: tuple[DestinationKind, ...] = (
    IPFIX,
    NETFLOW9,
    IPFIX_TCP,
    IPFIX_TLS,
    FILE,
    JSON,
    KAFKA,
    ZMQ,
)


def parse_destination(text: str) -> Destination:
    """Returns the Destination that the URL ``text`` means.

    Raises ConfigError, which names the URL, what is wrong with it, and what would be right.
    """
    scheme = text.partition(":")[0].lower()
    kind = _find(scheme)
    if kind is None or ":" not in text:
        known = ", ".join(one.scheme for one in KINDS)
        raise wrong(text, f"expected {IPFIX.form}; known schemes: {known}")
    try:
        return kind.parse(text)
    except UnknownOption as error:
        raise wrong(text, _explain(error)) from None


def open_sink(destination: Destination, factory: SinkFactory) -> Sink:
    """Returns the sink for ``destination``, which ``factory`` provides with settings and tables.

    Raises ConfigError if the sink needs a file or a package that cannot be used.
    """
    kind = _find(destination.scheme)
    if kind is None:
        raise wrong(str(destination), "no kind of destination has this scheme")
    return kind.open_sink(destination, factory)


def describe_kinds() -> Iterator[str]:
    """Yields the lines on destinations in the help of ``sockflow run``."""
    for kind in KINDS:
        yield f"  {kind.form}"
        needed = f"; needs: pip install 'sockflow[{kind.extra}]'" if kind.extra else ""
        yield f"      {kind.help}{needed}"


def options_of_kinds() -> Iterator[tuple[tuple[Option, ...], tuple[str, ...]]]:
    """Yields options that share a help text, with the schemes that have them; each option once."""
    schemes: dict[Option, list[str]] = {}
    for kind in KINDS:
        for option in kind.options:
            schemes.setdefault(option, []).append(kind.scheme)
    rows: dict[tuple[str, tuple[str, ...]], list[Option]] = {}
    for option, having in schemes.items():
        rows.setdefault((option.help, tuple(having)), []).append(option)
    for (_, having_all), options in rows.items():
        yield tuple(options), having_all


def _find(scheme: str) -> DestinationKind | None:
    return next((kind for kind in KINDS if kind.scheme == scheme), None)


def _explain(error: UnknownOption) -> str:
    """Returns a text that says why a kind refuses an option, and which kinds have it."""
    having = ", ".join(kind.scheme for kind in KINDS if kind.option(error.name))
    return f"{error}; {error.name} is for {having}" if having else str(error)
