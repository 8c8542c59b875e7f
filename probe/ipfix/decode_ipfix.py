"""IPFIX on the wire: header, Template Records and Options Template Records (RFC 7011 section 3)."""

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
from probe.ipfix.template import Field, Template

VERSION = 10
TEMPLATE_SET, OPTIONS_TEMPLATE_SET = 2, 3
HEADER = struct.Struct("!HHIII")
_LATE_RECORDS = 10_000
#: Octets of the shortest (Options) Template Record that defines something.
_SHORTEST, _SHORTEST_OPTIONS = 8, 10


def read_header(octets: bytes) -> Header:
    """RFC 7011 section 3.1."""
    _, length, export_time_s, sequence, odid = HEADER.unpack_from(octets)
    if length != len(octets):
        raise DecodeError(f"length {length} of {len(octets)}")
    return Header(HEADER.size, export_time_s, sequence, odid)


def read_templates(
    body: memoryview, is_options: bool, elements: Elements
) -> Iterator[Announcement]:
    """RFC 7011 sections 3.4.1 and 3.4.2; withdrawals: section 8.1."""
    at = 0
    shortest = _SHORTEST_OPTIONS if is_options else _SHORTEST
    while at < len(body) and not is_padding(body[at:], shortest):
        template, at = _read_template(body, at, is_options, elements)
        yield Announcement(template, is_options)


def _read_template(
    body: memoryview, at: int, is_options: bool, elements: Elements
) -> tuple[Template, int]:
    number, count = struct.unpack_from("!HH", body, at)
    at += 4
    withdraws_all = not count and number == (OPTIONS_TEMPLATE_SET if is_options else TEMPLATE_SET)
    if number < FIRST_DATA_SET and not withdraws_all:
        raise DecodeError(f"template id {number}")
    scope_count = 0
    if is_options and count:
        (scope_count,) = struct.unpack_from("!H", body, at)
        at += 2
        if not 0 < scope_count <= count:
            raise DecodeError(f"Options Template {number}: {scope_count} scopes in {count} fields")
    fields = []
    for _ in range(count):
        field, at = _read_field(body, at, elements)
        fields.append(field)
    return Template(number, tuple(fields), scope_count), at


def _read_field(body: memoryview, at: int, elements: Elements) -> tuple[Field, int]:
    number, length = struct.unpack_from("!HH", body, at)
    if not length:
        raise DecodeError(f"element {number} has no length")
    if not number & 0x8000:
        return Field(elements(0, number), length), at + 4
    (pen,) = struct.unpack_from("!I", body, at + 4)
    return Field(elements(pen, number & 0x7FFF), length), at + 8


IPFIX = Protocol(
    version=VERSION,
    template_set=TEMPLATE_SET,
    options_template_set=OPTIONS_TEMPLATE_SET,
    counts_messages=False,
    latest=_LATE_RECORDS,
    read_header=read_header,
    read_templates=read_templates,
)
