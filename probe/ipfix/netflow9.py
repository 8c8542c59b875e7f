"""Maps Information Elements to NetFlow v9, without enterprises and variable lengths (RFC 3954)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from probe.errors import ConfigError
from probe.ipfix.elements import Element, ElementTable, content_lines
from probe.ipfix.template import Field
from probe.ipfix.types import VARIABLE

#: Maps the elements that are scopes in IPFIX to scope types (RFC 3954 section 6.1).
SCOPE_TYPES = {
    "exportingProcessId": 1,
    "meteringProcessId": 1,
    "observationDomainId": 1,
    "ingressInterface": 2,
    "egressInterface": 2,
    "templateId": 5,
}


@dataclass(frozen=True, slots=True)
class _Entry:
    element: Element
    number: int
    length: int


class Netflow9Table:
    """Maps elements to field types and back, as ``templates/netflow9.txt`` says."""

    def __init__(self, entries: Iterable[_Entry], elements: ElementTable) -> None:
        self._elements = elements
        self._by_name = {}
        self._by_number: dict[int, Element] = {}
        for entry in entries:
            self._by_name[entry.element.name] = entry
            self._by_number.setdefault(entry.number, entry.element)
        self._replaced: dict[str, Element] = {}

    def replace(self, name: str, other: str) -> None:
        """Sends the element ``other`` wherever a Template has ``name``."""
        self._replaced[name] = self._elements[other]

    def element(self, number: int) -> Element | None:
        """Returns the element of a field type, None if the table has none."""
        return self._by_number.get(number) or self._elements.numbered(0, number)

    def field(self, field: Field) -> Field | None:
        """Returns ``field`` as NetFlow v9 sends it, None if v9 has no number for it."""
        if other := self._replaced.get(field.element.name):
            return Field(other, other.type.length)
        element, entry = field.element, self._by_name.get(field.element.name)
        length = field.length
        if entry:
            element = replace(element, pen=0, id=entry.number)
            length = entry.length if field.is_variable else length
        return None if element.pen or length == VARIABLE else Field(element, length)

    def scope(self, field: Field) -> Field | None:
        """Returns ``field`` as a scope of a v9 Options Template, None if v9 has no such scope."""
        number = SCOPE_TYPES.get(field.element.name)
        return Field(replace(field.element, id=number), field.length) if number else None


def parse_netflow9(text: str, source: str, elements: ElementTable) -> Netflow9Table:
    """Reads ``templates/netflow9.txt``. Raises ConfigError, which names ``source`` and the line."""
    entries, replaced = [], []
    for number, line in content_lines(text):
        try:
            name, kind, value = line.split()
            if kind == "=":
                replaced.append((elements[name].name, elements[value].name))
            else:
                entries.append(_entry(elements[name], int(kind), value))
        except (ValueError, KeyError):
            raise ConfigError(f"{source}:{number}: cannot read {line!r}") from None
    table = Netflow9Table(entries, elements)
    for name, other in replaced:
        table.replace(name, other)
    return table


def _entry(element: Element, number: int, length: str) -> _Entry:
    octets = element.type.length if length == "-" else int(length)
    if not 0 < number < 1 << 16 or not element.type.allows(octets) or octets == VARIABLE:
        raise ValueError
    return _Entry(element, number, octets)
