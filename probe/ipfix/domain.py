"""What a peer has announced in an Observation Domain, and one message read against it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from probe.errors import DecodeError
from probe.ipfix.announcement import FIRST_DATA_SET, Announcement, Elements, Header, Protocol
from probe.ipfix.elements import Element
from probe.ipfix.record import Record, RecordReader
from probe.ipfix.template import Field, Template
from probe.ipfix.types import TYPES, TYPES_BY_CODE
from probe.ipfix.uptime import add_unix_times

#: Bounds on what senders of garbage may make us keep, for each domain.
MAX_TEMPLATES, MAX_FIELDS, MAX_TYPES = 1024, 1 << 15, 4096
_MAX_NAME = 128
_TYPE_SCOPE = {"privateEnterpriseNumber", "informationElementId", "informationElementDataType"}

#: (enterprise number, element id) to what RFC 5610 records say of it.
Types = dict[tuple[int, int], Element]


@dataclass(slots=True)
class CollectorStatistics:
    messages: int = 0
    octets: int = 0
    records: int = 0
    option_records: int = 0
    template_records: int = 0
    #: Data Records that the sequence numbers say were sent and did not arrive (IPFIX).
    lost_records: int = 0
    #: Messages that the sequence numbers say were sent and did not arrive (NetFlow v9).
    lost_messages: int = 0
    #: Messages that are neither IPFIX nor NetFlow v9, or broken; nothing of them was used.
    errors: int = 0
    #: Sets whose Template is not known (yet).
    unknown_sets: int = 0
    #: NetFlow v9 packets whose Count is not the number of their records.
    count_mismatches: int = 0
    #: Withdrawals over UDP or of what is not there, new meanings of an id that was not withdrawn,
    #: and Templates beyond what is kept of one domain.
    template_errors: int = 0

    def add(self, other: CollectorStatistics) -> None:
        for name in _COUNTERS:
            if count := getattr(other, name):
                setattr(self, name, getattr(self, name) + count)


_COUNTERS = tuple(one.name for one in fields(CollectorStatistics))


@dataclass(slots=True)
class Domain:
    """Readers by Template id; ``began_ms`` is the start of the exporter's system in Unix time."""

    readers: dict[int, RecordReader] = field(default_factory=dict)
    types: Types = field(default_factory=dict)
    next_sequence: int | None = None
    began_ms: int | None = None
    field_count: int = 0

    @property
    def weight(self) -> int:
        """How much it keeps."""
        return self.field_count + len(self.types)


class MessageReader:
    """One message: all of it is read before ``commit`` lets any of it have happened.

    The domain's dicts are shared until the message changes them, then copied.
    """

    def __init__(
        self, domain: Domain, protocol: Protocol, header: Header, elements: Elements,
        is_reliable: bool,
    ) -> None:  # fmt: skip
        self.counted = CollectorStatistics()
        self.flows: list[Record] = []
        self.options: list[Record] = []
        self._domain, self._protocol, self._header = domain, protocol, header
        self._elements, self._is_reliable = elements, is_reliable
        self._readers, self._types = domain.readers, domain.types
        self._field_count, self._began_ms = domain.field_count, domain.began_ms
        self._emptied: set[bool] = set()
        self._described: Types = {}

    def read_set(self, number: int, body: memoryview) -> None:
        """DecodeError or struct.error: the message is not valid."""
        protocol = self._protocol
        if number in (protocol.template_set, protocol.options_template_set):
            is_options = number == protocol.options_template_set
            for announced in protocol.read_templates(body, is_options, self._element):
                self._learn(announced)
        elif number < FIRST_DATA_SET:
            raise DecodeError(f"set id {number} is reserved")
        elif reader := self._readers.get(number):
            self._read_data(reader, body)
        else:
            self.counted.unknown_sets += 1

    def commit(self, statistics: CollectorStatistics) -> None:
        """Let the domain know what the message said, and count it."""
        domain = self._domain
        self._follow_sequence(statistics)
        self._check_count()
        self._rename()
        domain.readers, domain.types = self._readers, self._types
        domain.field_count, domain.began_ms = self._field_count, self._began_ms
        statistics.add(self.counted)

    def _read_data(self, reader: RecordReader, body: memoryview) -> None:
        records = reader.records(body)
        if reader.has_uptimes:
            add_unix_times(records, self._header.export_time_s * 1000, self._uptime_ms())
        if not reader.is_options:
            self.counted.records += len(records)
            self.flows += records
            return
        self.counted.option_records += len(records)
        self.options += records
        if reader.names >= _TYPE_SCOPE:
            self._learn_types(records)
        if "systemInitTimeMilliseconds" in reader.names and records:
            began_ms = records[-1]["systemInitTimeMilliseconds"]
            self._began_ms = began_ms if isinstance(began_ms, int) else None

    def _uptime_ms(self) -> int | None:
        """The uptime of the exporter's system when it sent this message, if that can be known."""
        if self._header.uptime_ms is None and self._began_ms is not None:
            return self._header.export_time_s * 1000 - self._began_ms
        return self._header.uptime_ms

    # -- Templates ---------------------------------------------------------------------------------

    def _learn(self, announced: Announcement) -> None:
        self.counted.template_records += 1
        template = announced.template
        if not template.fields:
            self._withdraw(announced)
            return
        known = self._readers.get(template.id)
        if known and known.template == template and known.is_options == announced.is_options:
            return
        if known and self._is_reliable:  # RFC 7011 section 8.1: the exporter is at fault
            self.counted.template_errors += 1
        former = len(known.template.fields) if known else 0
        count = self._field_count + len(template.fields) - former
        if count > MAX_FIELDS or (not known and len(self._readers) >= MAX_TEMPLATES):
            self.counted.template_errors += 1
            return
        self._own_readers()[template.id] = RecordReader(template, announced.is_options)
        self._emptied.discard(announced.is_options)
        self._field_count = count

    def _withdraw(self, announced: Announcement) -> None:
        """RFC 7011 section 8.1, and 8.4: not over UDP."""
        number, is_options = announced.template.id, announced.is_options
        if number < FIRST_DATA_SET and self._is_reliable:
            if is_options not in self._emptied:  # a message of nothing else must not take long
                self._drop([n for n, one in self._readers.items() if one.is_options == is_options])
                self._emptied.add(is_options)
            return
        known = self._readers.get(number)
        if self._is_reliable and known and known.is_options == is_options:
            self._drop([number])
        else:
            self.counted.template_errors += 1

    def _drop(self, numbers: list[int]) -> None:
        for number in numbers:
            self._field_count -= len(self._own_readers().pop(number).template.fields)

    def _own_readers(self) -> dict[int, RecordReader]:
        if self._readers is self._domain.readers:
            self._readers = dict(self._readers)
        return self._readers

    # -- names and types ---------------------------------------------------------------------------

    def _element(self, pen: int, number: int) -> Element:
        known = self._elements(pen, number)
        return known if known.name else self._types.get((pen, number)) or _nameless(pen, number)

    def _learn_types(self, records: list[Record]) -> None:
        """Names and types of enterprise elements that are not in our own list (RFC 5610)."""
        for record in records:
            element = _described(record)
            number = element.pen, element.id
            if self._elements(*number).name or len(self._types) >= MAX_TYPES:
                continue
            if self._types.get(number) != element:
                if self._types is self._domain.types:
                    self._types = dict(self._types)
                self._types[number] = self._described[number] = element

    def _rename(self) -> None:
        """Read Templates that came before the description of their element with it.

        Once per message, whose Data Sets still have the element without its name.
        """
        for number, reader in list(self._readers.items()) if self._described else ():
            template = reader.template
            renamed = tuple(_with_type(item, self._described) for item in template.fields)
            if renamed != template.fields:
                self._own_readers()[number] = RecordReader(
                    Template(number, renamed, template.scope_count), reader.is_options
                )

    # -- what the header says ----------------------------------------------------------------------

    def _follow_sequence(self, statistics: CollectorStatistics) -> None:
        """Count gaps (RFC 7011 section 3.1; RFC 3954 section 5.1)."""
        domain, sequence, protocol = self._domain, self._header.sequence, self._protocol
        lost = "lost_messages" if protocol.counts_messages else "lost_records"
        count = self._sequence_count()
        if domain.next_sequence is not None:
            ahead = (sequence - domain.next_sequence) & 0xFFFFFFFF
            if ahead < 1 << 31:
                setattr(self.counted, lost, ahead)
            elif (1 << 32) - ahead <= protocol.latest and sequence:  # late, and counted as lost
                setattr(self.counted, lost, -min(count or 0, getattr(statistics, lost)))
                return
        domain.next_sequence = None if count is None else (sequence + count) & 0xFFFFFFFF

    def _sequence_count(self) -> int | None:
        """By how much this message moves the sequence; None where its records are not known."""
        if self._protocol.counts_messages:
            return 1
        counted = self.counted
        return None if counted.unknown_sets else counted.records + counted.option_records

    def _check_count(self) -> None:
        counted, count = self.counted, self._header.count
        if count is not None and not counted.unknown_sets:
            found = counted.records + counted.option_records + counted.template_records
            counted.count_mismatches += found != count


def _nameless(pen: int, number: int) -> Element:
    return Element(f"{pen}/{number}", pen, number, TYPES["octetArray"])


def _described(record: Record) -> Element:
    """The element that an RFC 5610 record describes."""

    def number(name: str) -> int:
        value = record.get(name, 0)
        return value if isinstance(value, int) else 0

    pen, element_id = number("privateEnterpriseNumber"), number("informationElementId") & 0x7FFF
    kind = TYPES_BY_CODE.get(number("informationElementDataType"), TYPES["octetArray"])
    name = str(record.get("informationElementName") or f"{pen}/{element_id}")[:_MAX_NAME]
    semantics, units = number("informationElementSemantics"), number("informationElementUnits")
    return Element(name, pen, element_id, kind, semantics, units)


def _with_type(item: Field, described: Types) -> Field:
    element = described.get((item.element.pen, item.element.id))
    return Field(element, item.length) if element else item
