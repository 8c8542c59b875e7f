"""Reads NetFlow v9: header, Template and Options Template FlowSets (RFC 3954)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from probe.ipfix.announcement import (
    FIRST_DATA_SET,
    SCOPE_PEN,
    Announcement,
    Fields,
    Header,
    Protocol,
    note_padding,
)
from probe.ipfix.elements import Element
from probe.ipfix.oddity import Note, Oddity
from probe.ipfix.types import TYPES, VARIABLE

VERSION = 9
HEADER = struct.Struct("!HHIIII")
_LATE_MESSAGES = 100
_FIELD_OCTETS = 4
#: Length in octets of the shortest (Options) Template Record that defines something.
_SHORTEST, _SHORTEST_OPTIONS = 8, 10

#: Maps scope types (RFC 3954 section 6.1) to the IANA element of the same meaning, if any.
_SCOPES = {
    1: Element("scopeSystem", 0, 1, TYPES["unsigned64"]),
    2: Element("ingressInterface", 0, 10, TYPES["unsigned32"]),
    3: Element("lineCardId", 0, 141, TYPES["unsigned32"]),
    4: Element("scopeCache", 0, 4, TYPES["unsigned64"]),
    5: Element("templateId", 0, 145, TYPES["unsigned16"]),
}


def read_header(octets: bytes, note: Note) -> Header:
    """Reads the header (RFC 3954 section 5.1)."""
    _, count, uptime_ms, unix_s, sequence, source_id = HEADER.unpack_from(octets)
    return Header(HEADER.size, len(octets), unix_s, sequence, source_id, uptime_ms, count)


def read_templates(body: memoryview, is_options: bool, note: Note) -> Iterator[Announcement]:
    """Reads (Options) Templates (RFC 3954 sections 5.2 and 6.1)."""
    at, head = 0, 6 if is_options else 4
    read = _read_options_template if is_options else _read_template
    while len(body) - at >= head:
        number, first = struct.unpack_from("!HH", body, at)
        if not number and at % 4 and len(body) - at >= 2 + head:
            at += 2  # some exporters pad each Options Template, not only the last
            continue
        if number < FIRST_DATA_SET and not first:
            break
        try:
            announced, at = read(body, at, note)
        except struct.error:
            note(Oddity.CUT_TEMPLATE, f"Template {number}")
            return
        if number < FIRST_DATA_SET:
            note(Oddity.TEMPLATE_ID, f"Template {number}")
        elif announced.fields:
            yield announced
    note_padding(body[at:], note, _SHORTEST_OPTIONS if is_options else _SHORTEST)


def _read_template(body: memoryview, at: int, note: Note) -> tuple[Announcement, int]:
    """Reads one Template. Raises struct.error if the Set ends before the Template does."""
    number, count = struct.unpack_from("!HH", body, at)
    fields = Fields(note)
    at = _read_fields(body, at + 4, count, fields, note)
    return _announced(number, count, fields, False, note), at


def _read_options_template(body: memoryview, at: int, note: Note) -> tuple[Announcement, int]:
    """Reads one Options Template, whose two lengths are in octets instead of fields.

    Raises struct.error if the Set ends before the Template does.
    """
    number, scope_octets, option_octets = struct.unpack_from("!HHH", body, at)
    if scope_octets % _FIELD_OCTETS or option_octets % _FIELD_OCTETS:
        detail = f"Options Template {number}: {scope_octets} and {option_octets} octets"
        note(Oddity.OPTIONS_LENGTH, detail)
    scopes, options = scope_octets // _FIELD_OCTETS, option_octets // _FIELD_OCTETS
    fields = Fields(note)
    at = _read_fields(body, at + 6, scopes, fields, note, is_scope=True)
    at = _read_fields(body, at, options, fields, note)
    return _announced(number, scopes + options, fields, True, note), at


def _read_fields(
    body: memoryview, at: int, count: int, fields: Fields, note: Note, is_scope: bool = False
) -> int:
    """Adds the fields from ``at`` on, and returns the offset behind them."""
    end = at + _FIELD_OCTETS * count
    if end > len(body):
        raise struct.error
    for number, length in struct.iter_unpack("!HH", body[at:end]):
        if length == VARIABLE:
            note(Oddity.VARIABLE_LENGTH, f"field type {number}")
        fields.add(SCOPE_PEN if is_scope else 0, number, length, is_scope)
    return end


def _announced(
    number: int, count: int, fields: Fields, is_options: bool, note: Note
) -> Announcement:
    """Returns the announcement, or None if it has no fields: NetFlow v9 has no withdrawals."""
    octets = fields.octets()
    if not octets:
        note(Oddity.NO_OCTETS if count else Oddity.NO_FIELDS, f"Template {number}")
    return Announcement(number, octets, is_options, fields.scope_count)


def scope(number: int) -> Element:
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
