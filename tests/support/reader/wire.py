"""Splits messages into records of octets, without a rest (RFC 7011 section 3, RFC 3954 section 5).

This half of the reader knows no elements. A breach of the structure ends the message: ``broken``
names the rule, and the reader forgets the message. Other oddities are listed besides.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.support.reader.rules import RULES

VARIABLE = 65535
_ENTERPRISE_BIT = 0x8000


class Broken(Exception):
    """Raised for octets that belong to nothing, or for fewer than were announced."""

    def __init__(self, rule: str, text: str = "") -> None:
        super().__init__(rule, text)
        self.rule, self.text = RULES[rule], text


@dataclass(frozen=True)
class Field:
    """A field of a Template; ``enterprise`` 0 is IANA."""

    enterprise: int
    number: int
    length: int


@dataclass(frozen=True)
class Layout:
    """A Template, or an Options Template whose first ``scopes`` fields are the scope."""

    number: int
    is_options: bool
    scopes: int
    fields: tuple[Field, ...]

    @property
    def shortest(self) -> int:
        return sum(1 if one.length == VARIABLE else one.length for one in self.fields)


@dataclass(frozen=True)
class Withdrawal:
    """Withdraws one Template, or all of its kind if the number is that of the Set."""

    number: int
    is_options: bool


@dataclass
class DataSet:
    number: int
    layout: Layout | None
    records: list[list[bytes]]


Layouts = dict[int, Layout]


@dataclass
class Message:
    version: int = 0
    domain: int = 0
    time_s: int = 0
    sequence: int = 0
    count: int | None = None
    uptime_ms: int | None = None
    sets: int = 0
    contents: list[Layout | Withdrawal | DataSet] = field(default_factory=list)
    odd: list[tuple[str, str]] = field(default_factory=list)
    broken: Broken | None = None

    def data_sets(self) -> list[DataSet]:
        return [one for one in self.contents if isinstance(one, DataSet)]

    def record_count(self, is_options: bool) -> int:
        """Returns the number of Data Records of Templates of this kind."""
        return sum(
            len(one.records)
            for one in self.data_sets()
            if one.layout and one.layout.is_options == is_options
        )

    @property
    def unknown_sets(self) -> int:
        return sum(one.layout is None for one in self.data_sets())

    @property
    def template_count(self) -> int:
        """Returns the number of Template Records of both kinds, with withdrawals."""
        return len(self.contents) - len(self.data_sets())


class Known:
    """The layouts of one peer, by protocol version and Observation Domain."""

    def __init__(self, is_reliable: bool = False) -> None:
        self.is_reliable = is_reliable
        self._layouts: dict[tuple[int, int], Layouts] = {}

    def read(self, octets: bytes) -> Message:
        message = Message()
        try:
            at = _read_header(octets, message)
            layouts = dict(self._layouts.get((message.version, message.domain), {}))
            self._read_sets(octets, at, layouts, message)
        except Broken as broken:
            message.broken = broken
        else:
            self._layouts[message.version, message.domain] = layouts
        return message

    def _read_sets(self, octets: bytes, at: int, layouts: Layouts, message: Message) -> None:
        while at < len(octets):
            if len(octets) - at < 4:
                raise Broken("set.trailing", f"{len(octets) - at} octets")
            number, length = _number(octets, at, 2), _number(octets, at + 2, 2)
            if length < 4:
                raise Broken("set.length", f"Set {number}: {length}")
            if at + length > len(octets):
                raise Broken("set.overrun", f"Set {number}: {length}, {len(octets) - at} are left")
            if message.version == 9 and length % 4:
                message.odd.append(("flowset.alignment", f"FlowSet {number}: {length}"))
            self._read_set(number, octets[at + 4 : at + length], layouts, message)
            message.sets += 1
            at += length

    def _read_set(self, number: int, body: bytes, layouts: Layouts, message: Message) -> None:
        kinds = (2, 3) if message.version == 10 else (0, 1)
        before = len(message.contents)
        if number in kinds:
            self._read_templates(body, number == kinds[1], layouts, message)
            is_empty = len(message.contents) == before
        elif number < 256:
            raise Broken("set.reserved", f"Set {number}")
        else:
            layout = layouts.get(number)
            records = _split(layout, body, message) if layout else []
            message.contents.append(DataSet(number, layout, records))
            is_empty = layout is not None and not records
        if is_empty:
            message.odd.append(("set.empty", f"Set {number}"))

    def _read_templates(
        self, body: bytes, is_options: bool, layouts: Layouts, message: Message
    ) -> None:
        at = 0
        while at < len(body):
            if not any(body[at:]):
                _check_template_padding(len(body) - at, is_options, message)
                return
            number, count = _part(body, at), _part(body, at + 2)
            if message.version == 10 and not count:
                self._withdraw(Withdrawal(number, is_options), layouts, message)
                at += 4
                continue
            try:
                layout, at = _read_template(body, at, is_options, message)
            except Broken as broken:
                raise _explained(broken, message) from None
            message.contents.append(layout)
            layouts[number] = layout

    def _withdraw(self, what: Withdrawal, layouts: Layouts, message: Message) -> None:
        everything = what.number == (3 if what.is_options else 2)
        if what.number < 256 and not everything:
            raise Broken("template.id", f"withdrawal of {what.number}")
        message.contents.append(what)
        for number in list(layouts) if self.is_reliable else ():
            is_kind = layouts[number].is_options == what.is_options
            if is_kind and (everything or number == what.number):
                del layouts[number]


def _read_header(octets: bytes, message: Message) -> int:
    """Reads the header, and returns the offset of the first Set."""
    if len(octets) < 2:
        raise Broken("message.short", f"{len(octets)} octets")
    message.version = _number(octets, 0, 2)
    if message.version not in (9, 10):
        raise Broken("message.version", str(message.version))
    size = 16 if message.version == 10 else 20
    if len(octets) < size:
        raise Broken("message.short", f"{len(octets)} octets")
    length = _number(octets, 2, 2)
    if message.version == 10:
        message.time_s, message.sequence, message.domain = _numbers(octets, 4, 3)
        if length != len(octets):
            raise Broken("message.length", f"{length}, and {len(octets)} came")
    else:
        message.count = length
        message.uptime_ms, message.time_s, message.sequence, message.domain = _numbers(octets, 4, 4)
    return size


def _check_template_padding(length: int, is_options: bool, message: Message) -> None:
    shortest = 10 if is_options else 8
    if length >= shortest:
        raise Broken("set.padding-length", f"{length} octets in a Template Set")
    if message.version == 10:
        message.odd.append(("advice.padding", f"{length} octets"))


def _explained(broken: Broken, message: Message) -> Broken:
    """Returns a plainer error if a Template of NetFlow v9 has enterprise numbers of IPFIX."""
    before = message.contents[-1] if message.contents else None
    if message.version == 9 and isinstance(before, Layout):
        for one in before.fields:
            if one.number & _ENTERPRISE_BIT:
                return Broken("flowset.enterprise", f"Template {before.number}: type {one.number}")
    return broken


def _read_template(body: bytes, at: int, is_options: bool, message: Message) -> tuple[Layout, int]:
    """Returns the Template, and the offset of the next one."""
    number, count, scopes = _part(body, at), _part(body, at + 2), 0
    version = message.version
    if number < 256:
        raise Broken("template.id", str(number))
    where, at = at, at + 4
    if is_options and version == 9:
        scopes, count = _options_counts(body, where)
    elif is_options:
        scopes = _part(body, at)
        if not 0 < scopes <= count:
            raise Broken("template.scope", f"Template {number}: {scopes} of {count} fields")
    at += 2 if is_options else 0
    fields = []
    for _ in range(count):
        start = at
        one, at = _read_field(body, start, version)
        if at - start == 8 and not one.enterprise:
            message.odd.append(("template.enterprise", f"Template {number}: element {one.number}"))
        fields.append(one)
    _check_lengths(number, fields, version)
    return Layout(number, is_options, scopes, tuple(fields)), at


def _options_counts(body: bytes, at: int) -> tuple[int, int]:
    """Returns (scopes, fields) of NetFlow v9, whose header has octets instead."""
    scope, rest = _part(body, at + 2), _part(body, at + 4)
    if scope % 4 or rest % 4 or at + 6 + scope + rest > len(body):
        raise Broken("flowset.options", f"Template {_part(body, at)}: {scope} and {rest} octets")
    return scope // 4, (scope + rest) // 4


def _read_field(body: bytes, at: int, version: int) -> tuple[Field, int]:
    number, length = _part(body, at), _part(body, at + 2)
    if version == 9 or not number & _ENTERPRISE_BIT:
        return Field(0, number, length), at + 4
    return Field(_part(body, at + 4, 4), number & ~_ENTERPRISE_BIT, length), at + 8


def _check_lengths(number: int, fields: list[Field], version: int) -> None:
    if not fields:
        raise Broken("template.no-field", f"Template {number}")
    for one in fields:
        if not one.length:
            raise Broken("template.zero-length", f"Template {number}: element {one.number}")
        if version == 9 and one.length == VARIABLE:
            raise Broken("flowset.variable", f"Template {number}: type {one.number}")


def _split(layout: Layout, body: bytes, message: Message) -> list[list[bytes]]:
    """Returns the records of a Data Set, each as the octets of its fields."""
    at, records = 0, []
    while len(body) - at >= layout.shortest:
        record = []
        for one in layout.fields:
            length = one.length
            if length == VARIABLE:
                length, at = _read_length(body, at, one, message)
            record.append(body[at : at + length])
            at += length
        if at > len(body):
            raise Broken("data.cut", f"Set {layout.number}: {at - len(body)} octets are missing")
        records.append(record)
    rest = body[at:]
    if any(rest) and not records:
        raise Broken("data.cut", f"Set {layout.number}: {len(rest)} octets are no record")
    if any(rest):
        raise Broken("set.padding-value", f"Set {layout.number}: {rest[:12].hex()}")
    return records


def _read_length(body: bytes, at: int, one: Field, message: Message) -> tuple[int, int]:
    """Returns the length of a variable-length field, and the offset of its value."""
    if at + 1 > len(body):
        raise Broken("data.cut", f"element {one.number}")
    length, at = body[at], at + 1
    if length < 255:
        return length, at
    if at + 2 > len(body):
        raise Broken("data.cut", f"element {one.number}")
    length = _number(body, at, 2)
    if length < 255:
        message.odd.append(("data.long-form", f"element {one.number}: {length}"))
    return length, at + 2


def _part(body: bytes, at: int, size: int = 2) -> int:
    """Returns a number of a Template Record."""
    if at + size > len(body):
        raise Broken("template.cut")
    return _number(body, at, size)


def _number(octets: bytes, at: int, size: int = 4) -> int:
    return int.from_bytes(octets[at : at + size], "big")


def _numbers(octets: bytes, at: int, count: int) -> tuple[int, ...]:
    return tuple(_number(octets, at + 4 * index) for index in range(count))
