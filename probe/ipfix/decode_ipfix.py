"""Reads IPFIX: header, Template Records and Options Template Records (RFC 7011 section 3)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from probe.ipfix.announcement import (
    FIRST_DATA_SET,
    Announcement,
    Fields,
    Header,
    Protocol,
    note_padding,
    sets_end_at,
)
from probe.ipfix.oddity import Note, Oddity

VERSION = 10
TEMPLATE_SET, OPTIONS_TEMPLATE_SET = 2, 3
HEADER = struct.Struct("!HHIII")
_LATE_RECORDS = 10_000
_ENTERPRISE = 0x8000
#: Length in octets of the shortest (Options) Template Record that defines something.
_SHORTEST, _SHORTEST_OPTIONS = 8, 10


def read_header(octets: bytes, note: Note) -> Header:
    """Reads the header (RFC 7011 section 3.1).

    The length field decides where the message ends only if the Sets end there too.
    """
    _, length, export_time_s, sequence, odid = HEADER.unpack_from(octets)
    end = len(octets)
    if length > end:
        note(Oddity.CUT_MESSAGE, f"length {length}, {end} octets came")
    elif length != end and sets_end_at(octets, HEADER.size, length):
        note(Oddity.BEHIND_MESSAGE, f"length {length}, {end} octets came")
        end = length
    elif length != end:
        note(Oddity.MESSAGE_LENGTH, f"length {length}, {end} octets came")
    return Header(HEADER.size, end, export_time_s, sequence, odid)


def read_templates(body: memoryview, is_options: bool, note: Note) -> Iterator[Announcement]:
    """Reads Templates (RFC 7011 sections 3.4.1 and 3.4.2) and withdrawals (section 8.1)."""
    at = 0
    while len(body) - at >= 4:
        number, count = struct.unpack_from("!HH", body, at)
        if not count and number < FIRST_DATA_SET and not _withdraws_all(number, is_options):
            break
        try:
            announced, at = _read_template(body, at, is_options, note)
        except struct.error:
            note(Oddity.CUT_TEMPLATE, f"Template {number} of {count} fields")
            return
        if number < FIRST_DATA_SET and count:
            note(Oddity.TEMPLATE_ID, f"Template {number}")
        elif count and not announced.fields:
            note(Oddity.NO_OCTETS, f"Template {number}")
        else:
            yield announced
    note_padding(body[at:], note, _SHORTEST_OPTIONS if is_options else _SHORTEST)


def _withdraws_all(number: int, is_options: bool) -> bool:
    return number == (OPTIONS_TEMPLATE_SET if is_options else TEMPLATE_SET)


def _read_template(
    body: memoryview, at: int, is_options: bool, note: Note
) -> tuple[Announcement, int]:
    """Reads one Template. Raises struct.error if the Set ends before the Template does."""
    number, count = struct.unpack_from("!HH", body, at)
    at += 4
    scope_count = 0
    if is_options and count:
        (scope_count,) = struct.unpack_from("!H", body, at)
        at += 2
        if not 0 < scope_count <= count:
            note(Oddity.NO_SCOPE, f"Options Template {number}: {scope_count} of {count} fields")
    fields = Fields(note)
    for position in range(count):
        element, length = struct.unpack_from("!HH", body, at)
        pen, at = 0, at + 4
        if element & _ENTERPRISE:
            (pen,) = struct.unpack_from("!I", body, at)
            at += 4
        fields.add(pen, element & ~_ENTERPRISE, length, position < scope_count)
    return Announcement(number, fields.octets(), is_options, fields.scope_count), at


IPFIX = Protocol(
    version=VERSION,
    template_set=TEMPLATE_SET,
    options_template_set=OPTIONS_TEMPLATE_SET,
    counts_messages=False,
    latest=_LATE_RECORDS,
    read_header=read_header,
    read_templates=read_templates,
)
