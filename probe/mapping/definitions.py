"""A Template definition for another protocol, or for records of both directions."""

from __future__ import annotations

from collections.abc import Collection

from probe.ipfix.elements import ElementTable
from probe.ipfix.netflow9 import Netflow9Table
from probe.ipfix.template import Field, TemplateDefinition
from probe.mapping.tables import REVERSES


def for_biflow(definition: TemplateDefinition, elements: ElementTable) -> TemplateDefinition:
    """``definition`` with the reverse of each of its elements that has one (RFC 5103).

    Its records are of BIFLOW_DTYPE; biflowDirection is added where it is missing. The reverse
    comes first: nfcapd takes those it has no place for (tcpControlBits, times) for the forward
    element, and the last of two wins.
    """
    has_direction = "biflowDirection" in definition.names()

    def both(field: Field) -> list[Field]:
        name = field.element.name
        if name == "octetDeltaCount" and not has_direction:
            direction = elements["biflowDirection"]
            return [Field(direction, direction.type.length), *_pair(field, elements)]
        return _pair(field, elements)

    return definition.changed(both)


def _pair(field: Field, elements: ElementTable) -> list[Field]:
    reverse = REVERSES.get(field.element.name)
    return [Field(elements[reverse], field.length), field] if reverse else [field]


def for_netflow9(
    definition: TemplateDefinition, table: Netflow9Table
) -> tuple[TemplateDefinition, list[str]]:
    """``definition`` as NetFlow v9 can send it, and the names of what it has no field type for."""
    left_out: list[str] = []

    def known(field: Field) -> list[Field]:
        found = table.field(field)
        if found is None:
            left_out.append(field.element.name)
        return [found] if found else []

    return definition.changed(known), _distinct(left_out)


def _distinct(names: Collection[str]) -> list[str]:
    return list(dict.fromkeys(names))
