"""NetFlow v9 on the wire: header, Template and Options Template FlowSets (RFC 3954).

Stricter than RFC 3954, which only recommends it: padding is zero and shorter than a record.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from probe.errors import DecodeError
from probe.ipfix.announcement import (
    FIRST_DATA_SET,
    Announcement,
    Elements,
    Header,
    Protocol,
    is_padding,
)
from probe.ipfix.elements import Element
from probe.ipfix.template import Field, Template
from probe.ipfix.types import TYPES, VARIABLE

VERSION = 9
HEADER = struct.Struct("!HHIIII")
_LATE_MESSAGES = 100
_SHORTEST, _SHORTEST_OPTIONS = 8, 10

#: Scope types (RFC 3954 section 6.1): IANA's element of the same meaning where there is one.
_SCOPES = {
    1: Element("scopeSystem", 0, 1, TYPES["unsigned64"]),
    2: Element("ingressInterface", 0, 10, TYPES["unsigned32"]),
    3: Element("lineCardId", 0, 141, TYPES["unsigned32"]),
    4: Element("scopeCache", 0, 4, TYPES["unsigned64"]),
    5: Element("templateId", 0, 145, TYPES["unsigned16"]),
}


def read_header(octets: bytes) -> Header:
    """RFC 3954 section 5.1."""
    _, count, uptime_ms, unix_s, sequence, source_id = HEADER.unpack_from(octets)
    return Header(HEADER.size, unix_s, sequence, source_id, uptime_ms, count)


def read_templates(
    body: memoryview, is_options: bool, elements: Elements
) -> Iterator[Announcement]:
    """RFC 3954 sections 5.2 and 6.1."""
    at = 0
    shortest = _SHORTEST_OPTIONS if is_options else _SHORTEST
    read = _read_options_template if is_options else _read_template
    while at < len(body) and not is_padding(body[at:], shortest):
        template, at = read(body, at, elements)
        if template.id < FIRST_DATA_SET:
            raise DecodeError(f"template id {template.id}")
        if not template.fields:
            raise DecodeError(f"Template {template.id} has no fields")
        yield Announcement(template, is_options)


def _read_template(body: memoryview, at: int, elements: Elements) -> tuple[Template, int]:
    number, count = struct.unpack_from("!HH", body, at)
    at += 4
    return Template(number, _read_fields(body, at, count, elements)), at + 4 * count


def _read_options_template(body: memoryview, at: int, elements: Elements) -> tuple[Template, int]:
    """Its two lengths are octets, not numbers of fields."""
    number, scope_octets, option_octets = struct.unpack_from("!HHH", body, at)
    if scope_octets % 4 or option_octets % 4:
        raise DecodeError(f"Options Template {number}: lengths {scope_octets}, {option_octets}")
    at += 6
    scopes = _read_fields(body, at, scope_octets // 4, _scope)
    at += scope_octets
    options = _read_fields(body, at, option_octets // 4, elements)
    return Template(number, scopes + options, len(scopes)), at + option_octets


def _read_fields(body: memoryview, at: int, count: int, elements: Elements) -> tuple[Field, ...]:
    fields = []
    for number, length in struct.iter_unpack("!HH", body[at : at + 4 * count]):
        if length in (0, VARIABLE):
            raise DecodeError(f"field type {number} has length {length}")
        fields.append(Field(elements(0, number), length))
    if len(fields) != count:
        raise DecodeError(f"{len(fields)} of {count} fields are there")
    return tuple(fields)


def _scope(_: int, number: int) -> Element:
    return _SCOPES.get(number) or Element(f"scope{number}", 0, number, TYPES["octetArray"])


NETFLOW9 = Protocol(
    version=VERSION,
    template_set=0,
    options_template_set=1,
    counts_messages=True,
    latest=_LATE_MESSAGES,
    read_header=read_header,
    read_templates=read_templates,
)
