"""Adapts a Template definition to NetFlow v9, or to records of both directions."""

from __future__ import annotations

from collections.abc import Collection

from probe.ipfix.elements import ElementTable
from probe.ipfix.netflow9 import Netflow9Table
from probe.ipfix.template import Field, TemplateDefinition
from probe.mapping.tables import REVERSES


def for_biflow(definition: TemplateDefinition, elements: ElementTable) -> TemplateDefinition:
    """Returns ``definition`` with the reverse of each element that has one (RFC 5103).

    Its records are of BIFLOW_DTYPE. Adds biflowDirection if it is missing. A reverse element
    precedes its forward element: nfcapd reads some reverses (tcpControlBits, times) as the forward
    element, and keeps the last of the two.
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
    """Returns ``definition`` for NetFlow v9, and the names of elements that v9 lacks."""
    left_out: list[str] = []

    def known(field: Field) -> list[Field]:
        found = table.field(field)
        if found is None:
            left_out.append(field.element.name)
        return [found] if found else []

    return definition.changed(known), _distinct(left_out)


def _distinct(names: Collection[str]) -> list[str]:
    return list(dict.fromkeys(names))
