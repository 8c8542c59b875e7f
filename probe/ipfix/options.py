"""Encodes Options Templates and their records for both protocols (RFC 7011 section 3.4.2.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probe.errors import ConfigError
from probe.ipfix.elements import Element, ElementTable, content_lines
from probe.ipfix.message import JoinedRecords, PackedRecords, Records
from probe.ipfix.netflow9 import Netflow9Table
from probe.ipfix.template import Field, Template, parse_field
from probe.ipfix.text import Strings, cut_text, encode_variable

OptionValue = int | str | bytes
#: One record as a map from element name to value; a missing value is sent as 0 or ''.
OptionRow = Mapping[str, OptionValue]

#: The most octets of a variable-length string in a record, with its length field.
LONGEST_STRING = 200

#: The scope for those of IPFIX that v9 does not have: type 1, System.
_SYSTEM = "exportingProcessId"


@dataclass(frozen=True, slots=True)
class OptionsDefinition:
    """One line of ``templates/options.txt``."""

    name: str
    scope: tuple[Field, ...]
    fields: tuple[Field, ...]

    def template(self, template_id: int) -> Template:
        return Template(template_id, self.scope + self.fields, len(self.scope))

    def for_netflow9(self, table: Netflow9Table, system: Field) -> OptionsDefinition:
        """Returns the definition for v9; a scope that v9 lacks becomes an option of System."""
        scopes = [scope for field in self.scope if (scope := table.scope(field))]
        others = [field for field in self.scope if not table.scope(field)]
        options = [option for field in (*others, *self.fields) if (option := table.field(field))]
        if not scopes and (scope := table.scope(system)):
            scopes = [scope]
        return OptionsDefinition(self.name, tuple(scopes), tuple(options))


def parse_options(text: str, source: str, elements: ElementTable) -> dict[str, OptionsDefinition]:
    """Reads ``templates/options.txt``. Raises ConfigError, which names ``source`` and the line."""
    found = {}
    for number, line in content_lines(text):
        try:
            name, _, rest = line.partition(" ")
            scope, _, fields = rest.partition("|")
            parsed = [_fields(part, elements) for part in (scope, fields)]
            if not all(parsed):
                raise ConfigError("expected: name, scope fields | fields")
        except ConfigError as error:
            raise ConfigError(f"{source}:{number}: {error}") from None
        found[name] = OptionsDefinition(name, *parsed)
    return found


def for_netflow9(
    definitions: Iterable[OptionsDefinition], table: Netflow9Table, elements: ElementTable
) -> list[OptionsDefinition]:
    """Returns ``definitions`` in the form that NetFlow v9 can send."""
    element = elements[_SYSTEM]
    system = Field(element, element.type.length)
    return [definition.for_netflow9(table, system) for definition in definitions]


def encode_options(
    template: Template, rows: Sequence[OptionRow], strings: Strings | None = None
) -> Records:
    """Returns Data Records of an Options Template.

    Numbers that are too large saturate; strings that are too long end at a whole character.
    """
    strings = strings or Strings()
    records = [b"".join(_encode(field, row, strings) for field in template.fields) for row in rows]
    if template.has_variable_length:
        return JoinedRecords([records], np.array([len(record) for record in records], np.int64))
    octets = np.frombuffer(b"".join(records), np.uint8)
    return PackedRecords(octets.reshape(len(records), template.fixed_length))


def type_rows(elements: Iterable[Element]) -> list[OptionRow]:
    """Returns the rows that describe enterprise-specific elements (RFC 5610).

    The rows leave the range out. It is sent as 0 to 0, which allows any value of the type.
    """
    return [
        {
            "privateEnterpriseNumber": element.pen,
            "informationElementId": element.id,
            "informationElementDataType": element.type.code,
            "informationElementSemantics": element.semantics,
            "informationElementUnits": element.units,
            "informationElementName": element.name,
            "informationElementDescription": element.description,
        }
        for element in elements
    ]


def _fields(text: str, elements: ElementTable) -> tuple[Field, ...]:
    return tuple(parse_field(word, elements) for word in text.split())


def _encode(field: Field, row: OptionRow, strings: Strings) -> bytes:
    value = row.get(field.element.name, 0)
    if field.element.type.name == "string":
        text = value if isinstance(value, str) else ""
        if field.is_variable:
            return encode_variable(cut_text(strings.encode(text), LONGEST_STRING - 1))
        return strings.fill(text, field.length)
    if isinstance(value, bytes):
        return value[: field.length].rjust(field.length, b"\0")
    most = (1 << 8 * field.length) - 1
    return min(int(value), most).to_bytes(field.length, "big")
