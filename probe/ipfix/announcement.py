"""Defines what both decoders share: headers, Sets, and (Options) Templates as they arrive."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from probe.ipfix.elements import Element
from probe.ipfix.oddity import Note, Oddity
from probe.ipfix.types import VARIABLE

FIRST_DATA_SET = 256
#: Stands in for the enterprise number of NetFlow v9's scope types, which are not elements.
SCOPE_PEN = 0xFFFFFFFF
_FIELD = struct.Struct("!IHH")
_SET = struct.Struct("!HH")


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a message.

    ``octets`` is the length of the header itself; ``end`` is the offset where the Sets end. IPFIX
    headers have neither an uptime nor a count.
    """

    octets: int
    end: int
    export_time_s: int
    sequence: int
    domain: int
    uptime_ms: int | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Announcement:
    """An (Options) Template Record in the form in which it arrived.

    ``fields`` packs the enterprise number, element id and length of each field that has octets.
    A record without fields is a withdrawal.
    """

    id: int
    fields: bytes
    is_options: bool = False
    scope_count: int = 0

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Yields the enterprise number, element id and length of each field."""
        return _FIELD.iter_unpack(self.fields)

    @property
    def field_count(self) -> int:
        return len(self.fields) // _FIELD.size

    @property
    def minimum(self) -> int:
        """Returns the length of the shortest record, in octets."""
        return sum(1 if length == VARIABLE else length for _, _, length in self)


class Fields:
    """Collects the fields of one Template.

    A field of length 0 has no value and is left out.
    """

    def __init__(self, note: Note) -> None:
        self._note = note
        self._packed = bytearray()
        self.scope_count = 0

    def add(self, pen: int, number: int, length: int, is_scope: bool = False) -> None:
        if length:
            self._packed += _FIELD.pack(pen, number, length)
            self.scope_count += is_scope
        else:
            self._note(Oddity.EMPTY_FIELD, f"element {number} has length 0")

    def octets(self) -> bytes:
        return bytes(self._packed)


#: Maps (enterprise number, element id) to the element, as far as it is known.
Elements = Callable[[int, int], Element]


@dataclass(frozen=True, slots=True)
class Protocol:
    """Says how to read one version of the protocol.

    ``read_header`` raises DecodeError or struct.error. The sequence number counts messages or Data
    Records. A number that is at most ``latest`` behind belongs to a late message; one further
    behind means that the exporter restarted.
    """

    version: int
    template_set: int
    options_template_set: int
    counts_messages: bool
    latest: int
    read_header: Callable[[bytes, Note], Header]
    read_templates: Callable[[memoryview, bool, Note], Iterator[Announcement]]

    def is_set(self, number: int) -> bool:
        """Returns True if a Set may have this id."""
        return number >= FIRST_DATA_SET or number in (self.template_set, self.options_template_set)


def read_sets(
    octets: bytes, header: Header, protocol: Protocol, note: Note
) -> Iterator[tuple[int, memoryview, bool]]:
    """Yields (id, body, is_whole) of each Set.

    Stops where no Set begins at the end of the one before.
    """
    view, at = memoryview(octets)[: header.end], header.octets
    while at < len(view):
        if not any(view[at:]):
            note(Oddity.ZERO_TAIL, f"{len(view) - at} octets")
            return
        if len(view) - at < _SET.size:
            note(Oddity.BEHIND_SETS, f"{len(view) - at} octets")
            return
        number, length = _SET.unpack_from(view, at)
        if not _is_sound(view, at, protocol):
            if at % 4 and _is_sound(view, at + -at % 4, protocol):
                note(Oddity.UNCOUNTED_PADDING, f"{-at % 4} octets at offset {at}")
                at += -at % 4
                continue
            if not _fits(view, at):
                note(Oddity.SET_LENGTH, f"set {number}: length {length}, {len(view) - at} left")
                if length > len(view) - at and protocol.is_set(number):
                    yield number, view[at + _SET.size :], False
                return
            note(Oddity.RESERVED_SET, f"set id {number}")
        else:
            yield number, view[at + _SET.size : at + length], True
        at += length


def _fits(view: memoryview, at: int) -> bool:
    if len(view) - at < _SET.size:
        return False
    length: int = _SET.unpack_from(view, at)[1]
    return _SET.size <= length <= len(view) - at


def _is_sound(view: memoryview, at: int, protocol: Protocol) -> bool:
    """Returns True if a Set can begin here."""
    return _fits(view, at) and protocol.is_set(_SET.unpack_from(view, at)[0])


def sets_end_at(octets: bytes, at: int, end: int) -> bool:
    """Returns True if the Sets that begin at ``at`` end exactly at ``end``."""
    view = memoryview(octets)[:end]
    while at < end and _fits(view, at):
        at += _SET.unpack_from(view, at)[1]
    return at == end


def note_padding(rest: memoryview, note: Note, shortest: int) -> None:
    """Notes an oddity if the octets behind the records of a Set cannot be padding.

    ``rest`` holds those octets; padding is shorter than the shortest record.
    """
    if any(rest):
        note(Oddity.PADDING, f"{len(rest)} octets, the first {bytes(rest[:4]).hex()}")
    elif len(rest) >= shortest:
        note(Oddity.LONG_PADDING, f"{len(rest)} octets")
