"""Templates: ordered Information Elements with their lengths (RFC 7011 section 3.4)."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from probe.errors import ConfigError
from probe.ipfix.elements import Element, ElementTable, content_lines
from probe.ipfix.types import VARIABLE

_FIRST_ID, _IDS = 256, 65536 - 256  # RFC 7011 section 3.4.1
_FIELD = re.compile(r"(?P<name>[A-Za-z0-9_]+)(?:\[(?P<length>\d+)\])?")


@dataclass(frozen=True, slots=True)
class Field:
    """An element with its length in one Template.

    The length is VARIABLE if each record gives its own.
    """

    element: Element
    length: int

    @property
    def is_variable(self) -> bool:
        return self.length == VARIABLE

    def encode(self) -> bytes:
        """Returns the Field Specifier (RFC 7011 section 3.2)."""
        element = self.element
        if element.pen == 0:
            return struct.pack("!HH", element.id, self.length)
        return struct.pack("!HHI", element.id | 0x8000, self.length, element.pen)


@dataclass(frozen=True, slots=True)
class Template:
    """A Template; with ``scope_count`` > 0 an Options Template (RFC 7011 section 3.4.2.2)."""

    id: int
    fields: tuple[Field, ...]
    scope_count: int = 0

    @property
    def fixed_length(self) -> int:
        """Returns the octets of a record without its variable-length fields."""
        return sum(field.length for field in self.fields if not field.is_variable)

    @property
    def has_variable_length(self) -> bool:
        return any(field.is_variable for field in self.fields)


@dataclass(frozen=True, slots=True)
class TemplateDefinition:
    """The content of a template file: a field for IPv4 and one for IPv6 at each position.

    If a Template has more than ``limit`` fields (0: no limit), the fields named in ``spare`` are
    left out, in that order, until it fits.
    """

    source: str
    positions: tuple[tuple[Field, Field], ...]
    limit: int = 0
    spare: tuple[str, ...] = ()

    def fields(
        self, ip_version: int, keep: Callable[[Element], bool] = lambda _: True
    ) -> tuple[Field, ...]:
        """Returns the fields for one IP version, without the elements that ``keep`` refuses."""
        side = 0 if ip_version == 4 else 1
        found = tuple(pair[side] for pair in self.positions if keep(pair[side].element))
        if not found:
            raise ConfigError(f"{self.source}: no Information Element is left in this template")
        return self._limited(found)

    def _limited(self, fields: tuple[Field, ...]) -> tuple[Field, ...]:
        """Returns ``fields`` without as many spare ones as are needed to fit."""
        excess = len(fields) - self.limit if self.limit else 0
        present = {field.element.name for field in fields}
        leaving = [name for name in self.spare if name in present][: max(0, excess)]
        return tuple(field for field in fields if field.element.name not in leaving)

    def names(self) -> set[str]:
        return {field.element.name for pair in self.positions for field in pair}

    def changed(self, change: Callable[[Field], Sequence[Field]]) -> TemplateDefinition:
        """Returns the definition with ``change`` applied to each field, and no element twice."""
        positions: list[tuple[Field, Field]] = []
        seen: set[Element] = set()
        for pair in self.positions:
            for fields in zip(*map(change, pair), strict=True):
                if not seen & {field.element for field in fields}:
                    positions.append((fields[0], fields[1]))
                    seen |= {field.element for field in fields}
        return replace(self, positions=tuple(positions))


def template_id(fields: Sequence[Field], taken: Collection[int], scope_count: int = 0) -> int:
    """Returns an id that follows from the layout and is not in ``taken``.

    So the same layout keeps its id. After a restart with other Templates, no id that collectors
    still remember gets another meaning (RFC 7011 section 8).
    """
    layout = bytes((scope_count,)) + b"".join(field.encode() for field in fields)
    found = _FIRST_ID + zlib.crc32(layout) % _IDS
    while found in taken:
        found = _FIRST_ID + (found - _FIRST_ID + 1) % _IDS
    return found


def parse_template(text: str, source: str, elements: ElementTable) -> TemplateDefinition:
    """Reads a template file (see ``templates/full.txt``).

    Raises ConfigError, which names ``source`` and the line.
    """
    positions: list[tuple[Field, Field]] = []
    seen: set[Element] = set()
    limit, spare = 0, list[str]()
    for number, line in content_lines(text):
        try:
            if line.startswith("limit "):
                limit, names = _parse_limit(line, elements)
                spare += names
                continue
            pair = _parse_position(line, elements)
            _refuse_repetition(pair, seen)
        except ConfigError as error:
            raise ConfigError(f"{source}:{number}: {error}") from None
        positions.append(pair)
    if not positions:
        raise ConfigError(f"{source}: no Information Element in this template")
    return TemplateDefinition(source, tuple(positions), limit, tuple(spare))


def _parse_limit(line: str, elements: ElementTable) -> tuple[int, list[str]]:
    _, limit, *names = line.split()
    if not (limit.isascii() and limit.isdecimal() and int(limit)):
        raise ConfigError(f"{line!r}: expected: limit, the most fields, names of spare elements")
    for name in names:
        if elements.get(name) is None:
            raise ConfigError(f"{name} is not in the list of Information Elements")
    return int(limit), names


def _parse_position(line: str, elements: ElementTable) -> tuple[Field, Field]:
    fields = [parse_field(part.strip(), elements) for part in line.split("|")]
    if len(fields) > 2:
        raise ConfigError(f"{line!r} has more than two alternatives (IPv4 | IPv6)")
    return fields[0], fields[-1]


def parse_field(text: str, elements: ElementTable) -> Field:
    """Reads 'name' or 'name[length]'. Raises ConfigError for an unknown element or bad length."""
    match = _FIELD.fullmatch(text)
    if not match:
        raise ConfigError(f"{text!r} is not an element name or name[length]")
    element = elements.get(match["name"])
    if element is None:
        raise ConfigError(f"{match['name']} is not in the list of Information Elements")
    length = int(match["length"]) if match["length"] else element.type.length
    if match["length"] and (length >= VARIABLE or not element.type.allows(length)):
        raise ConfigError(f"{length} octets is no length for {element.type.name} {element.name}")
    return Field(element, length)


def _refuse_repetition(pair: tuple[Field, Field], seen: set[Element]) -> None:
    for element in {field.element for field in pair}:
        if element in seen:
            raise ConfigError(f"{element.name} is in this template already")
        seen.add(element)
