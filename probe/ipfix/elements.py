"""Reads Information Elements from one-line declarations; looks them up by name or number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from probe.errors import ConfigError
from probe.ipfix.types import SEMANTICS, TYPES, UNITS, DataType

#: The enterprise number that IANA reserves for documentation (RFC 5612).
DOCUMENTATION_PEN = 32473


@dataclass(frozen=True, slots=True)
class Element:
    """One Information Element.

    ``pen`` is the enterprise number, 0 for IANA. Semantics and units are codes of RFC 5610.
    """

    name: str
    pen: int
    id: int
    type: DataType
    semantics: int = 0
    units: int = 0
    description: str = field(default="", compare=False)


class ElementTable:
    """The known elements. Raises ConfigError if two have the same name or number."""

    def __init__(self, elements: Iterable[Element] = ()) -> None:
        self._by_name: dict[str, Element] = {}
        self._by_number: dict[tuple[int, int], Element] = {}
        for element in elements:
            self._add(element)

    def _add(self, element: Element) -> None:
        number = element.pen, element.id
        if element.name in self._by_name or number in self._by_number:
            raise ConfigError(
                f"Information Element {element.name} ({number[0]}/{number[1]}) is declared twice"
            )
        self._by_name[element.name] = self._by_number[number] = element

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Element]:
        return iter(self._by_name.values())

    def __getitem__(self, name: str) -> Element:
        return self._by_name[name]

    def get(self, name: str) -> Element | None:
        return self._by_name.get(name)

    def numbered(self, pen: int, number: int) -> Element | None:
        return self._by_number.get((pen, number))


def parse_elements(
    text: str, source: str = "elements", private_pen: int = DOCUMENTATION_PEN
) -> ElementTable:
    """Reads declarations (``templates/elements.txt``).

    Raises ConfigError, which names ``source`` and the line.
    """
    table = ElementTable()
    for number, line in content_lines(text):
        try:
            table._add(_parse_element(line, private_pen))
        except (ValueError, KeyError, ConfigError) as error:
            reason = error if isinstance(error, ConfigError) else f"cannot read {line!r}"
            raise ConfigError(f"{source}:{number}: {reason}") from None
    return table


def parse_registry(text: str, source: str) -> dict[int, Element]:
    """Reads IANA's registry (``templates/iana_registry.txt``).

    Raises ConfigError, which names ``source`` and the line.
    """
    found: dict[int, Element] = {}
    for number, line in content_lines(text):
        try:
            identifier, name, kind = line.split()
            found[int(identifier)] = Element(name, 0, int(identifier), TYPES[kind])
        except (ValueError, KeyError):
            raise ConfigError(f"{source}:{number}: cannot read {line!r}") from None
    return found


def content_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yields (line number, text) of the lines that are neither blank nor comment."""
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].strip()
        if content:
            yield number, content


def _parse_element(line: str, private_pen: int) -> Element:
    name, number, kind, semantics, units, *words = line.split(maxsplit=5)
    enterprise, _, identifier = number.partition("/")
    pen = private_pen if enterprise == "private" else int(enterprise)
    element_id = int(identifier)
    if not (0 <= pen < 1 << 32 and 0 < element_id < 1 << 15):
        raise ConfigError(f"{number} is not a number of an Information Element")
    # Registries of their own describe the elements of other enterprises, so type records do not.
    description = "".join(words) if enterprise == "private" else ""
    return Element(
        name, pen, element_id, TYPES[kind], SEMANTICS[semantics], UNITS[units], description
    )
