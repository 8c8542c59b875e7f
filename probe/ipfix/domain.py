"""Keeps what a peer announced in an Observation Domain, and reads its messages by that."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from probe.ipfix.announcement import (
    FIRST_DATA_SET,
    Announcement,
    Elements,
    Header,
    Protocol,
    note_padding,
    read_sets,
)
from probe.ipfix.elements import Element
from probe.ipfix.oddity import Oddities, Oddity
from probe.ipfix.readers import KnownTemplate, Readers
from probe.ipfix.record import Record
from probe.ipfix.statistics import CollectorStatistics
from probe.ipfix.types import TYPES, TYPES_BY_CODE
from probe.ipfix.uptime import add_unix_times
from probe.ipfix.waiting import WaitingSets

#: Bounds for each domain on what a sender of garbage can make the process keep.
MAX_TEMPLATES, MAX_FIELDS, MAX_TYPES = 1024, 1 << 15, 4096
_MAX_NAME = 128
#: Approximate memory of a domain, and of one description of an element, in octets.
_DOMAIN_OCTETS, _TYPE_OCTETS = 1024, 512
_TYPE_SCOPE = {"privateEnterpriseNumber", "informationElementId", "informationElementDataType"}

#: Maps (enterprise number, element id) to the description in RFC 5610 records.
Types = dict[tuple[int, int], Element]


@dataclass(slots=True)
class Domain:
    """What one Observation Domain has announced.

    ``began_ms`` is the start of the exporter's system, in Unix time. ``useful`` counts the messages
    with records that could be read.
    """

    templates: dict[int, KnownTemplate] = field(default_factory=dict)
    types: Types = field(default_factory=dict)
    next_sequence: int | None = None
    began_ms: int | None = None
    field_count: int = 0
    useful: int = 0
    waiting: WaitingSets = field(default_factory=WaitingSets)
    known_weight: int = _DOMAIN_OCTETS

    @property
    def weight(self) -> int:
        """Returns the approximate memory of the domain, in octets."""
        return self.known_weight + self.waiting.weight

    @property
    def is_worth_keeping(self) -> bool:
        return bool(self.templates or self.types or self.waiting)


class MessageReader:
    """Reads one message into ``flows`` and ``options``, and updates ``domain`` from it."""

    def __init__(
        self, domain: Domain, protocol: Protocol, elements: Elements, readers: Readers,
        is_reliable: bool,
    ) -> None:  # fmt: skip
        self.counted = CollectorStatistics()
        self.oddities = Oddities()
        self.flows: list[Record] = []
        self.options: list[Record] = []
        self._domain, self._protocol = domain, protocol
        self._elements, self._readers, self._is_reliable = elements, readers, is_reliable
        self._emptied: set[bool] = set()
        self._set_count = 0
        self._has_new_types = self._has_recovered = False

    def read(self, octets: bytes, statistics: CollectorStatistics) -> None:
        """Reads all of the message that can be read, and completes ``statistics``.

        Raises DecodeError or struct.error if the header cannot be read.
        """
        header = self._protocol.read_header(octets, self.oddities.note)
        for number, body, is_whole in read_sets(octets, header, self._protocol, self.oddities.note):
            self._set_count += 1
            self._read_set(number, body, header, is_whole)
        for known in self._domain.templates.values() if self._has_new_types else ():
            self._readers.drop(known)
        counted = self.counted
        counted.messages, counted.octets = 1, len(octets)
        self._check_count(header)
        self._follow_sequence(header, statistics)
        counted.errors = int(bool(self.oddities.losses))
        counted.oddities = self.oddities.counts
        self._domain.useful += bool(self.flows or self.options)
        statistics.add(counted)

    def _read_set(self, number: int, body: memoryview, header: Header, is_whole: bool) -> None:
        protocol = self._protocol
        if number < FIRST_DATA_SET:
            is_options = number == protocol.options_template_set
            for announced in protocol.read_templates(body, is_options, self.oddities.note):
                self._learn(announced)
                self._recover(announced.id, header)
        elif known := self._domain.templates.get(number):
            rest = self._read_data(known, body, header)
            if is_whole:
                note_padding(rest, self.oddities.note, known.minimum)
        elif is_whole:
            self.counted.unknown_sets += 1
            if not self._is_reliable:  # TCP and TLS keep Templates first
                self._domain.waiting.add(number, body, header)

    def _recover(self, number: int, header: Header) -> None:
        """Reads the Sets that arrived before their Template."""
        known, waiting = self._domain.templates.get(number), self._domain.waiting
        if not known or not waiting:
            return
        for body, earlier in waiting.take(number, header.export_time_s):
            self._read_data(known, memoryview(body), earlier)
            self.counted.unknown_sets -= 1
            self._has_recovered = True

    def _read_data(self, known: KnownTemplate, body: memoryview, header: Header) -> memoryview:
        """Reads the records of a Set. Returns the octets behind them."""
        if len(body) < known.minimum:
            if any(body):
                detail = f"set {known.announced.id}: {len(body)} octets, {known.minimum} expected"
                self.oddities.note(Oddity.SHORT_SET, detail)
            return body[:0]
        reader = self._readers.of(known, self._element)
        records, rest = reader.records(body, self.oddities.note)
        if reader.has_uptimes:
            add_unix_times(records, header.export_time_s * 1000, self._uptime_ms(header))
        if not known.announced.is_options:
            self.counted.records += len(records)
            self.flows += records
            return rest
        self.counted.option_records += len(records)
        self.options += records
        if reader.names >= _TYPE_SCOPE:
            self._learn_types(records)
        if "systemInitTimeMilliseconds" in reader.names and records:
            began_ms = records[-1]["systemInitTimeMilliseconds"]
            self._domain.began_ms = began_ms if isinstance(began_ms, int) else None
        return rest

    def _uptime_ms(self, header: Header) -> int | None:
        """Returns the uptime of the exporter's system at this message, None if unknown."""
        began_ms = self._domain.began_ms
        if header.uptime_ms is None and began_ms is not None:
            return header.export_time_s * 1000 - began_ms
        return header.uptime_ms

    # -- Templates ---------------------------------------------------------------------------------

    def _learn(self, announced: Announcement) -> None:
        domain = self._domain
        self.counted.template_records += 1
        if not announced.fields:
            self._withdraw(announced)
            return
        former = domain.templates.get(announced.id)
        if former and former.announced == announced:
            return
        if former and self._is_reliable:  # RFC 7011 section 8.1 requires a withdrawal first
            self.counted.template_errors += 1
        former_fields = former.announced.field_count if former else 0
        count = domain.field_count + announced.field_count - former_fields
        if count > MAX_FIELDS or (not former and len(domain.templates) >= MAX_TEMPLATES):
            self.counted.template_errors += 1
            return
        if former:
            self._drop([announced.id])
        domain.templates[announced.id] = known = KnownTemplate(announced)
        domain.field_count = count
        domain.known_weight += known.weight
        self._emptied.discard(announced.is_options)

    def _withdraw(self, announced: Announcement) -> None:
        """Withdraws Templates (RFC 7011 section 8.1), which UDP does not allow (section 8.4)."""
        number, is_options, known = announced.id, announced.is_options, self._domain.templates
        if number < FIRST_DATA_SET and self._is_reliable:
            if is_options not in self._emptied:  # a message full of such withdrawals stays cheap
                alike = [n for n, one in known.items() if one.announced.is_options == is_options]
                self._drop(alike)
                self._emptied.add(is_options)
            return
        found = known.get(number)
        if self._is_reliable and found and found.announced.is_options == is_options:
            self._drop([number])
        else:
            self.counted.template_errors += 1

    def _drop(self, numbers: list[int]) -> None:
        domain = self._domain
        for number in numbers:
            known = domain.templates.pop(number)
            domain.field_count -= known.announced.field_count
            domain.known_weight -= known.weight
            self._readers.drop(known)

    # -- names and types ---------------------------------------------------------------------------

    def _element(self, pen: int, number: int) -> Element:
        known = self._elements(pen, number)
        return (
            known if known.name else self._domain.types.get((pen, number)) or nameless(pen, number)
        )

    def _learn_types(self, records: list[Record]) -> None:
        """Learns names and types of enterprise elements that are not in our own list (RFC 5610).

        Templates that arrived earlier use the description from the next message on.
        """
        types = self._domain.types
        for record in records:
            element = _described(record)
            number = element.pen, element.id
            if self._elements(*number).name or (number not in types and len(types) >= MAX_TYPES):
                continue
            if types.get(number) != element:
                self._domain.known_weight += 0 if number in types else _TYPE_OCTETS
                types[number] = element
                self._has_new_types = True

    # -- what the header says ----------------------------------------------------------------------

    def _follow_sequence(self, header: Header, statistics: CollectorStatistics) -> None:
        """Counts gaps in the sequence numbers (RFC 7011 section 3.1; RFC 3954 section 5.1)."""
        domain, sequence, protocol = self._domain, header.sequence, self._protocol
        lost = "lost_messages" if protocol.counts_messages else "lost_records"
        count = self._sequence_count()
        if domain.next_sequence is not None:
            ahead = (sequence - domain.next_sequence) & 0xFFFFFFFF
            if ahead < 1 << 31:
                setattr(self.counted, lost, ahead)
            elif (1 << 32) - ahead <= protocol.latest and sequence:  # it was counted as lost
                setattr(self.counted, lost, -min(count or 0, getattr(statistics, lost)))
                return
        domain.next_sequence = None if count is None else (sequence + count) & 0xFFFFFFFF

    def _sequence_count(self) -> int | None:
        """Returns how far this message moves the sequence, None if its records are unknown."""
        if self._protocol.counts_messages:
            return 1
        counted = self.counted
        if self._has_recovered or counted.unknown_sets or self.oddities.losses:
            return None
        return counted.records + counted.option_records

    def _check_count(self, header: Header) -> None:
        counted, count = self.counted, header.count
        if self._has_recovered or counted.unknown_sets or self.oddities.losses or count is None:
            return
        found = counted.records + counted.option_records + counted.template_records
        if found != count:
            kind = Oddity.COUNT_OF_SETS if count == self._set_count else Oddity.COUNT
            self.oddities.note(kind, f"{count}, there are {found} records")


@lru_cache(4096)
def nameless(pen: int, number: int) -> Element:
    return Element(f"{pen}/{number}", pen, number, TYPES["octetArray"])


def _described(record: Record) -> Element:
    """Returns the element that an RFC 5610 record describes."""

    def number(name: str) -> int:
        value = record.get(name, 0)
        return value if isinstance(value, int) else 0

    pen, element_id = number("privateEnterpriseNumber"), number("informationElementId") & 0x7FFF
    kind = TYPES_BY_CODE.get(number("informationElementDataType"), TYPES["octetArray"])
    name = str(record.get("informationElementName") or f"{pen}/{element_id}")[:_MAX_NAME]
    semantics, units = number("informationElementSemantics"), number("informationElementUnits")
    return Element(name, pen, element_id, kind, semantics, units)
