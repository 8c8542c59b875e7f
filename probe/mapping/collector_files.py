"""Writes the files by which a collector shows our elements under their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from probe.ipfix.elements import Element
from probe.ipfix.netflow9 import Netflow9Table
from probe.ipfix.template import Field, TemplateDefinition
from probe.mapping.tables import ATTRIBUTES, Privacy

#: Those elements of IANA that we send and for which pmacct has primitives of its own.
_PMACCT_OWN = frozenset(
    (*(1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 14, 21, 22, 27, 28, 34), *range(150, 154), *range(225, 229))
)
#: The JSON names of goflow2 that a Template of ours can fill.
_GOFLOW2_OWN = (
    *("type", "time_received_ns", "sequence_num", "sampler_address", "observation_domain_id"),
    *("time_flow_start_ns", "time_flow_end_ns", "bytes", "packets", "src_addr", "dst_addr"),
    *("etype", "proto", "src_port", "dst_port", "in_if", "out_if", "tcp_flags", "ip_tos"),
)
#: Elements of IANA for which goflow2 has a field.
_GOFLOW2_IDS = frozenset(
    (*(1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 14, 21, 22, 27, 28, 60), *range(150, 154))
)
#: Numbers of protobuf fields that goflow2 reserves for its users.
_GOFLOW2_FIRST_INDEX = 2000
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=(?!Pv)[A-Z][a-z])")


def snake_case(name: str) -> str:
    """Returns 'sourceProcessPath' or 'SRC_PROC_NAME' in the spelling of pmacct and goflow2."""
    return _WORD.sub("_", name).lower()


def pmacct_primitives(definition: TemplateDefinition) -> str:
    """Returns the file for pmacct's ``aggregate_primitives``.

    ``definition`` is the Template as it is sent, by IPFIX or v9. Elements that are sent on request
    only become comments, because nfacctd prints garbage for strings that do not arrive.
    """
    fields = [
        field
        for field in _fields(definition)
        if field.element.pen or field.element.id not in _PMACCT_OWN
    ]
    return _text(
        "! nfacctd.conf: aggregate_primitives: this file; and the names that are wanted in",
        "! aggregate: src_host, dst_host, src_port, dst_port, proto, src_proc_name, ...",
        *(
            f"! two elements with number {number} in one Template: nfacctd 1.7.7 reads one as 0"
            for number in _shared_numbers(fields)
        ),
        *map(_pmacct_line, fields),
    )


def _shared_numbers(fields: Iterable[Field]) -> list[int]:
    """Returns the element numbers that several enterprises use."""
    numbers = Counter(field.element.id for field in fields if field.element.pen)
    return [number for number, count in numbers.items() if count > 1]


def _pmacct_line(field: Field) -> str:
    attribute = ATTRIBUTES.get(field.element.name)
    is_rare = attribute is not None and not getattr(Privacy(), attribute.privacy or "names")
    return (
        f"{'! if allowed to leave: ' if is_rare else ''}name={snake_case(field.element.name)} "
        f"field_type={_pmacct_number(field.element)} "
        f"len={_pmacct_length(field)} semantics={_pmacct_kind(field)}"
    )


def _pmacct_length(field: Field) -> str:
    """Returns the length of a primitive, which is 'vlen' for every string.

    nfacctd stores fixed-length strings without a NUL behind them. It would print a name that fills
    its field together with what follows in memory.
    """
    is_text = field.element.type.name == "string"
    return "vlen" if is_text or field.is_variable else str(field.length)


def _pmacct_number(element: Element) -> str:
    return f"{element.pen}:{element.id}" if element.pen else str(element.id)


def _pmacct_kind(field: Field) -> str:
    kind = field.element.type.name
    if kind in ("ipv4Address", "ipv6Address"):
        return "ip"
    return {"string": "str", "octetArray": "raw"}.get(kind, "u_int")


def goflow2_mapping(ipfix: TemplateDefinition, netflow9: TemplateDefinition) -> str:
    """Returns the file for goflow2's ``-mapping``.

    Its renderer 'string' exists since version 2.1.2.
    """
    fields = [
        field
        for field in _fields(ipfix)
        if field.element.pen or field.element.id not in _GOFLOW2_IDS
    ]
    names = {field.element.name: snake_case(field.element.name) for field in fields}
    renderers = {
        names[field.element.name]: kind for field in fields if (kind := _goflow2_renderer(field))
    }
    by_name = {field.element.name: field.element for field in _fields(netflow9)}
    return _text(
        "# goflow2 -mapping=this-file -format=json -produce=sample",
        "formatter:",
        "  fields:",
        *(f"    - {name}" for name in (*_GOFLOW2_OWN, *names.values())),
        "  protobuf:",
        *(
            f"    - {{name: {names[field.element.name]}, index: {index}, "
            f"type: {_goflow2_type(field)}}}"
            for index, field in enumerate(fields, _GOFLOW2_FIRST_INDEX)
        ),
        "  render:",
        *(f"    {name}: {kind}" for name, kind in renderers.items()),
        "ipfix:",
        "  mapping:",
        *(_goflow2_line(field.element, names[field.element.name]) for field in fields),
        "netflowv9:",
        "  mapping:",
        *(
            _goflow2_line(by_name[name], names[name]) for name in names if name in by_name
        ),
    )  # fmt: skip


def _goflow2_type(field: Field) -> str:
    return "string" if _goflow2_renderer(field) else "varint"


def _goflow2_renderer(field: Field) -> str:
    """Returns goflow2's renderer for a data type, '' for a number."""
    kinds = {"string": "string", "octetArray": "none", "ipv4Address": "ip", "ipv6Address": "ip"}
    return kinds.get(field.element.type.name, "")


def _goflow2_line(element: Element, name: str) -> str:
    pen = f"penprovided: true, pen: {element.pen}, " if element.pen else ""
    return f"    - {{field: {element.id}, {pen}destination: {name}}}"


def wireshark_dissector(source: str, elements: Iterable[Element], table: Netflow9Table) -> str:
    """Returns ``source`` (templates/wireshark.lua) completed with the enterprise ``elements``."""
    rows = [
        f'    {{ {element.pen}, {element.id}, {_netflow9_type(element, table)}, "{element.name}", '
        f'"{_lua_kind(element)}" }},'
        for element in dict.fromkeys(elements)
        if element.pen
    ]
    return source.replace("@ELEMENTS@", "\n".join(rows))


def _netflow9_type(element: Element, table: Netflow9Table) -> int:
    found = table.field(Field(element, element.type.length))
    return found.element.id if found else 0


def _lua_kind(element: Element) -> str:
    kinds = {
        "string": "string",
        "octetArray": "bytes",
        "boolean": "bool",
        "unsigned64": "uint64",
        "dateTimeSeconds": "seconds",
        "dateTimeMilliseconds": "milliseconds",
    }
    return kinds.get(element.type.name, "uint32")


def _fields(definition: TemplateDefinition) -> Iterator[Field]:
    """Returns the fields without duplicates, in the order of the Template."""
    yield from dict.fromkeys(field for pair in definition.positions for field in pair)


def _text(*lines: str) -> str:
    return "\n".join(lines) + "\n"
