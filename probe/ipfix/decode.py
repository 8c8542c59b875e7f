"""The Collecting Process: messages to records (RFC 7011 sections 8 and 9), for any exporter.

Sans-io: ``CollectingProcess.decode(datagram, peer)`` gives the flow records of one message as
dicts from element name to value. Templates, type information (RFC 5610) and sequence numbers are
kept per peer and Observation Domain. An element without a name is called 'enterprise/number'.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from probe.errors import DecodeError
from probe.ipfix.elements import Element, ElementTable
from probe.ipfix.record import RecordReader, Value
from probe.ipfix.template import Field, Template
from probe.ipfix.types import TYPES, TYPES_BY_CODE

Record = dict[str, Value]

_HEADER = struct.Struct("!HHIII")
_TEMPLATE_SET, _OPTIONS_TEMPLATE_SET, _FIRST_DATA_SET = 2, 3, 256
_TYPE_SCOPE = {"privateEnterpriseNumber", "informationElementId", "informationElementDataType"}
_REVERSE_PEN = 29305  # RFC 5103
#: Bounds on what senders of garbage may make us keep.
_MAX_DOMAINS, _MAX_TEMPLATES, _MAX_TYPES = 1024, 1024, 4096
#: A sequence number this far behind is no late datagram but a restarted exporter.
_LATE = 10_000


@dataclass(slots=True)
class CollectorStatistics:
    messages: int = 0
    octets: int = 0
    records: int = 0
    option_records: int = 0
    template_records: int = 0
    #: Data Records that the sequence numbers say were sent and did not arrive.
    lost_records: int = 0
    #: Messages that are not IPFIX, or broken.
    errors: int = 0
    #: Sets whose Template is not known (yet).
    unknown_sets: int = 0


@dataclass(slots=True)
class _Domain:
    """What one peer has announced in one Observation Domain."""

    readers: dict[int, RecordReader] = field(default_factory=dict)
    types: dict[tuple[int, int], Element] = field(default_factory=dict)
    next_sequence: int | None = None


class CollectingProcess:
    """Decodes the messages of any number of peers."""

    def __init__(self, elements: ElementTable) -> None:
        self.statistics = CollectorStatistics()
        self._elements = elements
        self._domains: dict[tuple[Hashable, int], _Domain] = {}

    def decode(self, datagram: bytes, peer: Hashable) -> list[Record]:
        """Flow records of one message; DecodeError (counted) when it is not a valid one."""
        try:
            return self._decode(datagram, peer)
        except (DecodeError, struct.error) as error:
            self.statistics.errors += 1
            raise DecodeError(str(error)) from None

    def _decode(self, datagram: bytes, peer: Hashable) -> list[Record]:
        if len(datagram) < _HEADER.size:
            raise DecodeError(f"{len(datagram)} octets are no message")
        version, length, _, sequence, odid = _HEADER.unpack_from(datagram)
        if version != 10 or length != len(datagram):
            raise DecodeError(f"version {version}, length {length} of {len(datagram)}")
        sets = list(_sets(datagram))
        domain = self._domain(peer, odid)
        before = self.statistics.records + self.statistics.option_records
        known_before = self.statistics.unknown_sets
        records = [record for number, body in sets for record in self._set(domain, number, body)]
        self.statistics.messages += 1
        self.statistics.octets += length
        count = self.statistics.records + self.statistics.option_records - before
        is_counted = self.statistics.unknown_sets == known_before
        self._follow_sequence(domain, sequence, count if is_counted else None)
        return records

    def _domain(self, peer: Hashable, odid: int) -> _Domain:
        key = peer, odid
        if key not in self._domains and len(self._domains) >= _MAX_DOMAINS:
            del self._domains[next(iter(self._domains))]
        return self._domains.setdefault(key, _Domain())

    def _set(self, domain: _Domain, number: int, body: memoryview) -> list[Record]:
        if number in (_TEMPLATE_SET, _OPTIONS_TEMPLATE_SET):
            for template in _templates(body, number == _OPTIONS_TEMPLATE_SET, self._named(domain)):
                self._learn_template(domain, template)
            return []
        if number < _FIRST_DATA_SET:
            raise DecodeError(f"set id {number} is reserved")
        reader = domain.readers.get(number)
        if reader is None:
            self.statistics.unknown_sets += 1
            return []
        records = list(reader.records(body))
        if not reader.template.scope_count:
            self.statistics.records += len(records)
            return records
        self.statistics.option_records += len(records)
        if {item.element.name for item in reader.template.fields} >= _TYPE_SCOPE:
            self._learn_types(domain, records)
        return []

    def _learn_template(self, domain: _Domain, template: Template) -> None:
        self.statistics.template_records += 1
        if not template.fields:  # a withdrawal, RFC 7011 section 8.1
            domain.readers.pop(template.id, None)
        elif template.id in domain.readers or len(domain.readers) < _MAX_TEMPLATES:
            known = domain.readers.get(template.id)
            if known is None or known.template != template:
                domain.readers[template.id] = RecordReader(template)

    def _learn_types(self, domain: _Domain, records: list[Record]) -> None:
        """Names and types of enterprise elements that are not in our own list (RFC 5610)."""
        for record in records:
            element = _described(record)
            number = element.pen, element.id
            if self._elements.numbered(*number) or len(domain.types) >= _MAX_TYPES:
                continue
            if domain.types.get(number) != element:
                domain.types[number] = element
                self._rename(domain, element)

    def _rename(self, domain: _Domain, element: Element) -> None:
        """Read Templates that came before the description of their element with it."""
        for number, reader in list(domain.readers.items()):
            template = reader.template
            fields = tuple(_with_type(item, element) for item in template.fields)
            if fields != template.fields:
                domain.readers[number] = RecordReader(
                    Template(number, fields, template.scope_count)
                )

    def _named(self, domain: _Domain) -> _Names:
        return _Names(self._elements, domain.types)

    def _follow_sequence(self, domain: _Domain, sequence: int, count: int | None) -> None:
        """Count gaps; ``count`` is None when the message's records could not be counted."""
        if domain.next_sequence is not None:
            ahead = (sequence - domain.next_sequence) & 0xFFFFFFFF
            if ahead < 1 << 31:
                self.statistics.lost_records += ahead
            elif (1 << 32) - ahead <= _LATE and sequence:  # late, and counted as lost before
                self.statistics.lost_records -= min(count or 0, self.statistics.lost_records)
                return
        domain.next_sequence = None if count is None else (sequence + count) & 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _Names:
    """Elements by number: our own list, then what the exporter described, then nameless octets."""

    elements: ElementTable
    described: dict[tuple[int, int], Element]

    def element(self, pen: int, number: int) -> Element:
        known = self.elements.numbered(pen, number) or self.described.get((pen, number))
        if known:
            return known
        if pen == _REVERSE_PEN and (forward := self.elements.numbered(0, number)):
            name = f"reverse{forward.name[0].upper()}{forward.name[1:]}"
            return Element(name, pen, number, forward.type)
        return Element(f"{pen}/{number}", pen, number, TYPES["octetArray"])


def _sets(datagram: bytes) -> Iterator[tuple[int, memoryview]]:
    view, at = memoryview(datagram), _HEADER.size
    while at < len(view):
        number, length = struct.unpack_from("!HH", view, at)
        if length < 4 or at + length > len(view):
            raise DecodeError(f"set {number}: length {length}, {len(view) - at} left")
        yield number, view[at + 4 : at + length]
        at += length


def _templates(body: memoryview, options: bool, names: _Names) -> Iterator[Template]:
    at = 0
    while len(body) - at >= 4:
        number, count = struct.unpack_from("!HH", body, at)
        if not number and not any(body[at:]):
            return  # padding
        at += 4
        if number < _FIRST_DATA_SET and count:
            raise DecodeError(f"template id {number}")
        scope_count = 0
        if options and count:
            (scope_count,) = struct.unpack_from("!H", body, at)
            at += 2
        fields = []
        for _ in range(count):
            item, at = _field(body, at, names)
            fields.append(item)
        yield Template(number, tuple(fields), scope_count)


def _field(body: memoryview, at: int, names: _Names) -> tuple[Field, int]:
    number, length = struct.unpack_from("!HH", body, at)
    if not length:
        raise DecodeError(f"element {number} has no length")
    if not number & 0x8000:
        return Field(names.element(0, number), length), at + 4
    (pen,) = struct.unpack_from("!I", body, at + 4)
    return Field(names.element(pen, number & 0x7FFF), length), at + 8


def _described(record: Record) -> Element:
    """The element that an RFC 5610 record describes."""

    def number(name: str) -> int:
        value = record.get(name, 0)
        return value if isinstance(value, int) else 0

    pen, element_id = number("privateEnterpriseNumber"), number("informationElementId") & 0x7FFF
    kind = TYPES_BY_CODE.get(number("informationElementDataType"), TYPES["octetArray"])
    name = str(record.get("informationElementName") or f"{pen}/{element_id}")
    semantics, units = number("informationElementSemantics"), number("informationElementUnits")
    return Element(name, pen, element_id, kind, semantics, units)


def _with_type(item: Field, element: Element) -> Field:
    same = (item.element.pen, item.element.id) == (element.pen, element.id)
    return Field(element, item.length) if same else item
