"""Checks type records of enterprise elements (RFC 5610) in one Observation Domain."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.support.reader import registry
from tests.support.reader.content import Values
from tests.support.reader.templates import check_length
from tests.support.reader.values import Say
from tests.support.reader.wire import Field, Layout

_ENTERPRISE, _ELEMENT = "privateEnterpriseNumber", "informationElementId"
_TYPE, _NAME = "informationElementDataType", "informationElementName"
Key = tuple[int, int]


def is_type_record(layout: Layout, values: Values) -> bool:
    return layout.is_options and {_ENTERPRISE, _ELEMENT, _TYPE} <= values.keys()


@dataclass
class Announced:
    """The described elements, and the Templates and data that use elements."""

    types: dict[Key, tuple[str, str]] = field(default_factory=dict)
    in_templates: dict[Key, list[tuple[int, Field]]] = field(default_factory=dict)
    in_data: set[Key] = field(default_factory=set)

    def type_of(self, one: Field) -> str | None:
        known = self.types.get((one.enterprise, one.number))
        return known[0] if known else None

    def use(self, layout: Layout, say: Say) -> None:
        """Notes that a Template uses an element."""
        for one in filter(_is_private, layout.fields):
            key = one.enterprise, one.number
            self.in_templates.setdefault(key, []).append((layout.number, one))
            if key in self.types:
                self._check_lengths(key, say, [(layout.number, one)])

    def use_in_data(self, layout: Layout) -> None:
        """Notes that Data Records use an element."""
        used = filter(_is_private, layout.fields)
        self.in_data.update((one.enterprise, one.number) for one in used)

    def take(self, layout: Layout, values: Values, say: Say) -> None:
        """Takes a type record."""
        key = int(values[_ENTERPRISE]), int(values[_ELEMENT])
        where, number = f"{key[0]}/{key[1]}", int(values[_TYPE])
        scope = {registry.name_of(one) for one in layout.fields[: layout.scopes]}
        if scope != {_ENTERPRISE, _ELEMENT}:
            say("type.scope", f"{where}: {sorted(scope)}")
        if number not in registry.TYPE_NUMBERS:
            return say("type.unknown", f"{where}: {number}")
        told = registry.TYPE_NUMBERS[number], str(values.get(_NAME, "")).rstrip("\0")
        if not told[1]:
            say("type.name", where)
        before = self.types.get(key)
        if before is None and key in self.in_data:
            say("type.late", where)
        if before not in (None, told):
            say("type.changed", f"{where}: {before}, then {told}")
        self.types[key] = told
        self._check_lengths(key, say, self.in_templates.pop(key, []))
        return None

    def _check_lengths(self, key: Key, say: Say, uses: list[tuple[int, Field]]) -> None:
        for number, one in uses:
            where = f"Template {number}: {key[0]}/{key[1]}"
            check_length(self.types[key][0], one, where, say, "type.length", "type.length")

    def finish(self, say: Say) -> None:
        for key in sorted(self.in_templates.keys() - self.types.keys()):
            say("type.missing", f"{key[0]}/{key[1]}")


def _is_private(one: Field) -> bool:
    return one.enterprise not in (0, registry.REVERSE)
