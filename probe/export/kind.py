"""Defines what a kind of destination declares: its scheme, options, help and opener.

The package of each output format declares its kinds in a module named ``destinations``, which is
cheap to import. The opener of a kind imports its sink, so that a package such as librdkafka is
loaded only when used. ``probe.run.destinations`` lists all kinds. The help of the command line,
the errors and the pages are made from these declarations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from probe.errors import ConfigError
from probe.export.transports.destination import Destination

if TYPE_CHECKING:
    from probe.export.sink import Sink
    from probe.export.sink_factory import SinkFactory

#: Makes the value of an option from its text. Raises ValueError("must be ...").
Reader = Callable[[str], Any]
#: Returns the fields ``host``, ``port`` and ``path`` of what stands between scheme and query.
#: Raises ValueError, whose text may add something to the expected form of the URL.
Locator = Callable[[str], Mapping[str, Any]]
Opener = Callable[[Destination, "SinkFactory"], "Sink"]


def any_text(text: str) -> str:
    """Reads an option that may be any text but an empty one."""
    if not text:
        raise ValueError("is empty")
    return text


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a URL. ``values`` describes the allowed values, as help and pages show them."""

    name: str
    values: str
    help: str
    default: str = ""
    read: Reader = any_text
    is_required: bool = False


def number(name: str, low: int, high: int, help: str, default: str) -> Option:
    """Returns an option that is a whole number from ``low`` to ``high``."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or not low <= int(text) <= high:
            raise ValueError(f"must be {low} to {high}")
        return int(text)

    return Option(name, "N", help, default, read)


def choice(name: str, values: Mapping[str, Any], help: str, default: str = "") -> Option:
    """Returns an option that is one of ``values``, which maps each text to what it means."""

    def read(text: str) -> Any:
        if text not in values:
            raise ValueError(f"must be {' or '.join(values)}")
        return values[text]

    return Option(name, "|".join(values), help, default, read)


@dataclass(frozen=True, slots=True)
class DestinationKind:
    """One kind of destination.

    form: the form of its URL, as help and errors show it. help: a description in one line.
    locate: reads the part of the URL before the query. options: the options that the query may
    have. Those that are fields of Destination go there, all others into ``Destination.options``.
    extra: the extra of the package that installs what the opener imports.
    refusals: maps an option that only other kinds have to the reason why this kind has not.
    """

    scheme: str
    form: str
    help: str
    locate: Locator
    open: Opener
    options: tuple[Option, ...] = ()
    extra: str = ""
    port: int = 0
    refusals: Mapping[str, str] = field(default_factory=dict, hash=False)
    #: Fields of Destination whose default for this kind differs from that of the class.
    defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)
    #: Checks options against each other. Raises ValueError.
    check: Callable[[Destination], None] | None = None

    def option(self, name: str) -> Option | None:
        """Returns the option of this name, or None if this kind has none."""
        return next((one for one in self.options if one.name == name), None)

    def parse(self, text: str) -> Destination:
        """Returns the Destination that the URL ``text`` describes.

        Raises ConfigError, which names the URL and the fault. Raises UnknownOption for an option
        that this kind does not have, but another may.
        """
        location, _, query = text.partition(":")[2].partition("?")
        try:
            options = self._read_options(query)
            place = self._locate(location)
            if missing := [one for one in self.options if self._lacks(one, options)]:
                wanted = " and ".join(f"{one.name}={one.values}" for one in missing)
                raise ValueError(f"{wanted} must be given: {missing[0].help}")
            destination = self._build(place, options)
            if self.check:
                self.check(destination)
        except UnknownOption:
            raise
        except ValueError as error:
            raise wrong(text, str(error)) from None
        return destination

    def open_sink(self, destination: Destination, factory: SinkFactory) -> Sink:
        """Returns the sink for ``destination``.

        Raises ConfigError if a file or a package that it needs cannot be used.
        """
        try:
            return self.open(destination, factory)
        except ModuleNotFoundError as error:
            if not self.extra or (error.name or "").partition(".")[0] == "probe":
                raise
            raise ConfigError(
                f"destination {destination}: the package {error.name} is missing; "
                f"install it with: pip install 'sockflow[{self.extra}]'"
            ) from None

    def _locate(self, location: str) -> Mapping[str, Any]:
        try:
            return self.locate(location)
        except ValueError as error:
            expected = f"expected {self.form}"
            raise ValueError(f"{error}; {expected}" if str(error) else expected) from None

    def _read_options(self, query: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for piece in filter(None, query.split("&")):
            name, _, value = piece.partition("=")
            option = self.option(name)
            if option is None:
                raise UnknownOption(self, name)
            if name in found:
                raise ValueError(f"{name} is given twice")
            try:
                # Not parse_qsl, which reads the + in a path as a space.
                found[name] = option.read(unquote(value))
            except ValueError as error:
                raise ValueError(f"{name} {error}") from None
        return found

    def _lacks(self, option: Option, given: Mapping[str, Any]) -> bool:
        return option.is_required and option.name not in given

    def _build(self, place: Mapping[str, Any], options: Mapping[str, Any]) -> Destination:
        named = {name: value for name, value in options.items() if name in _FIELDS}
        others = {name: value for name, value in options.items() if name not in _FIELDS}
        values = {"host": "", "port": 0, **self.defaults, **place, **named}
        values["port"] = values["port"] or self.port
        return Destination(self.scheme, **values, options=others)


class UnknownOption(ValueError):
    """Raised for a URL with an option that its kind does not have."""

    def __init__(self, kind: DestinationKind, name: str) -> None:
        self.name = name
        known = ", ".join(sorted(one.name for one in kind.options)) or "none"
        super().__init__(kind.refusals.get(name) or f"unknown option {name}; known: {known}")


def wrong(text: str, reason: str) -> ConfigError:
    """Returns the error that says why the destination ``text`` cannot be used."""
    return ConfigError(f"destination {text!r}: {reason}")


def host_and_port(location: str) -> dict[str, Any]:
    """Locates ``//HOST:PORT``. Raises ValueError."""
    if not location.startswith("//"):
        raise ValueError
    return end_point(location.removeprefix("//").removesuffix("/"))


def end_point(text: str) -> dict[str, Any]:
    """Returns host and port of ``HOST:PORT`` or ``HOST``, whose port is 0. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    host, port = parts.hostname, parts.port
    is_plain = parts.netloc == text and parts.username is None
    if not host or port == 0 or not is_plain or not _may_be_host(host):
        raise ValueError
    return {"host": host, "port": port or 0}


def absolute_path(location: str) -> dict[str, Any]:
    """Locates ``///PATH`` or ``/PATH``. Raises ValueError."""
    path = unquote(location.removeprefix("//") if location.startswith("///") else location)
    if not path.startswith("/") or path.startswith("//") or path.endswith("/") or "\0" in path:
        raise ValueError
    if "#" in location:
        raise ValueError("write # as %23")
    return {"path": path}


def _may_be_host(text: str) -> bool:
    """Returns True if ``text`` has the form of an address or name. It is not looked up."""
    try:
        text.encode("idna")  # as the resolver would: labels of 1 to 63 octets
    except UnicodeError:
        return False
    return not any(c.isspace() for c in text)


_FIELDS = {one.name for one in fields(Destination)} - {"scheme", "host", "port", "path", "options"}
