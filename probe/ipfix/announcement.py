"""What the decoders of both protocols share: headers, (Options) Templates as they arrive, Sets."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from probe.ipfix.elements import Element
from probe.ipfix.oddity import Note, Oddity
from probe.ipfix.types import VARIABLE

FIRST_DATA_SET = 256
#: Stands for the enterprise of NetFlow v9's scope types, which are no elements.
SCOPE_PEN = 0xFFFFFFFF
_FIELD = struct.Struct("!IHH")
_SET = struct.Struct("!HH")


@dataclass(frozen=True, slots=True)
class Header:
    """``octets`` is the header's own length, ``end`` where the message's Sets end. IPFIX has no
    uptime and no count."""

    octets: int
    end: int
    export_time_s: int
    sequence: int
    domain: int
    uptime_ms: int | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Announcement:
    """An (Options) Template Record, as compact as it came; without ``fields`` a withdrawal.

    ``fields`` are those that have octets: enterprise, element id and length of each, packed.
    """

    id: int
    fields: bytes
    is_options: bool = False
    scope_count: int = 0

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Enterprise, element id and length of each field."""
        return _FIELD.iter_unpack(self.fields)

    @property
    def field_count(self) -> int:
        return len(self.fields) // _FIELD.size

    @property
    def minimum(self) -> int:
        """Octets of the shortest record."""
        return sum(1 if length == VARIABLE else length for _, _, length in self)


class Fields:
    """Collects the fields of one Template; those of length 0 have no value and are left out."""

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


#: (enterprise number, element id) to what is known of the element.
Elements = Callable[[int, int], Element]


@dataclass(frozen=True, slots=True)
class Protocol:
    """How one version of the protocol is read.

    ``read_header`` raises DecodeError or struct.error. The sequence number counts messages or Data
    Records; one that is up to ``latest`` behind is that of a late message, else the exporter began
    anew.
    """

    version: int
    template_set: int
    options_template_set: int
    counts_messages: bool
    latest: int
    read_header: Callable[[bytes, Note], Header]
    read_templates: Callable[[memoryview, bool, Note], Iterator[Announcement]]

    def is_set(self, number: int) -> bool:
        """Whether a Set may have this id."""
        return number >= FIRST_DATA_SET or number in (self.template_set, self.options_template_set)


def read_sets(
    octets: bytes, header: Header, protocol: Protocol, note: Note
) -> Iterator[tuple[int, memoryview, bool]]:
    """Id, body, and whether that is whole, of the Sets: as far as one begins where the one before
    ends."""
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
    """Whether a Set can begin here."""
    return _fits(view, at) and protocol.is_set(_SET.unpack_from(view, at)[0])


def sets_end_at(octets: bytes, at: int, end: int) -> bool:
    """Whether Sets from ``at`` on fill the octets up to ``end`` and no more."""
    view = memoryview(octets)[:end]
    while at < end and _fits(view, at):
        at += _SET.unpack_from(view, at)[1]
    return at == end


def note_padding(rest: memoryview, note: Note, shortest: int) -> None:
    """What is left of a Set when its records have been read, the shortest of which is so long."""
    if any(rest):
        note(Oddity.PADDING, f"{len(rest)} octets, the first {bytes(rest[:4]).hex()}")
    elif len(rest) >= shortest:
        note(Oddity.LONG_PADDING, f"{len(rest)} octets")
