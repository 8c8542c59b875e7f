"""A strict reader of IPFIX and NetFlow v9 that shares no code with ``probe``.

It takes what arrived, keeps every Data Record, and lists each broken rule of ``rules``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.support.reader import content, registry, templates
from tests.support.reader.content import Record, Values
from tests.support.reader.rules import RULES, Rule, Severity
from tests.support.reader.types import Announced, is_type_record
from tests.support.reader.values import value_of
from tests.support.reader.wire import VARIABLE, DataSet, Known, Layout, Message, Withdrawal

#: The most octets of a datagram in one packet of Ethernet, over IPv4.
ROOM = 1500 - 20 - 8
#: RFC 7011 section 8.4: a Template's lifetime is at least three times its refresh.
_LIFETIMES = 3
_UPTIME_SLACK_MS = 2000


@dataclass(frozen=True)
class Finding:
    """A broken rule, and the number of the message that broke it."""

    rule: Rule
    text: str
    message: int
    domain: int

    def __str__(self) -> str:
        place = f"message {self.message}, domain {self.domain}"
        return f"{self.rule.name}: {self.text} ({place}; {self.rule.text} {self.rule.reference})"


@dataclass
class _Sent:
    """A Template and when it was last sent."""

    layout: Layout
    at_s: float


@dataclass
class _Domain:
    templates: dict[int, _Sent] = field(default_factory=dict)
    announced: Announced = field(default_factory=Announced)
    next_sequence: int | None = None
    time_s: int | None = None
    uptime_ms: int | None = None


class _Session:
    def __init__(self, transport: str) -> None:
        self.is_udp = transport == "udp"
        self.known = Known(is_reliable=not self.is_udp)
        self.version: int | None = None
        self.waiting = b""
        self.domains: dict[int, _Domain] = {}


class StrictReader:
    """The reader.

    ``refresh_s`` bounds how long a Template is used without being repeated; ``room`` bounds the
    octets of a datagram, ``skew_s`` the delay of a message, and ``oldest_s`` the age of flows.
    """

    def __init__(
        self,
        refresh_s: float = 600.0,
        room: int = ROOM,
        skew_s: float = 6.0,
        oldest_s: float = 86_400.0,
    ) -> None:
        self._refresh_s, self._room = refresh_s, room
        self._skew_s, self._oldest_s = skew_s, oldest_s
        self._sessions: dict[tuple[str, str], _Session] = {}
        self.findings: list[Finding] = []
        self.records: list[Record] = []
        self.totals: Counter[str] = Counter()
        self._domain = 0

    # --- what arrives -------------------------------------------------------------------------

    def feed(
        self, octets: bytes, at_s: float | None = None, peer: str = "peer", transport: str = "udp"
    ) -> None:
        """Takes a datagram, or some octets of a stream, which arrived at ``at_s``."""
        session = self._sessions.setdefault((peer, transport), _Session(transport))
        if session.is_udp:
            if len(octets) > self._room:
                self._say("message.size", f"{len(octets)} octets, and {self._room} fit")
            self._read(octets, at_s, session)
            return
        session.waiting += octets
        while len(session.waiting) >= 4:
            length = max(int.from_bytes(session.waiting[2:4], "big"), 4)
            if len(session.waiting) < length:
                return
            message, session.waiting = session.waiting[:length], session.waiting[length:]
            self._read(message, at_s, session)

    def fragmented(self, text: str) -> None:
        """Notes that a datagram arrived as several IP packets."""
        self._say("message.fragment", text)

    def read_file(self, path: Path) -> None:
        """Reads a file of consecutive messages (RFC 5655)."""
        self.feed(path.read_bytes(), peer=str(path), transport="file")

    def finish(self) -> list[Finding]:
        """Returns all findings, with those that only the end can show."""
        for session in self._sessions.values():
            if session.waiting:
                self._say("message.length", f"{len(session.waiting)} octets end the stream")
            for number, domain in session.domains.items():
                self._domain = number
                domain.announced.finish(self._say)
        return self.findings

    # --- what is asked ------------------------------------------------------------------------

    def broken(self, *severities: Severity, but: Iterable[str] = ()) -> list[str]:
        """Returns the findings of these severities, or of all, as text."""
        wanted, meant = severities or tuple(Severity), set(but)
        found = [one for one in self.findings if one.rule.severity in wanted]
        return [str(one) for one in found if one.rule.name not in meant]

    def flows(self) -> list[Values]:
        return [one.values for one in self.records if not one.is_options]

    def options(self) -> list[Values]:
        return [one.values for one in self.records if one.is_options]

    # --- one message --------------------------------------------------------------------------

    def _say(self, rule: str, text: str = "") -> None:
        place = self.totals["messages"], self._domain
        self.findings.append(Finding(RULES[rule], text, *place))

    def _read(self, octets: bytes, at_s: float | None, session: _Session) -> None:
        self.totals["messages"] += 1
        message = session.known.read(octets)
        self._domain = message.domain
        for odd in message.odd:
            self._say(*odd)
        if message.broken:
            self._say(message.broken.rule.name, message.broken.text)
            session.domains.setdefault(message.domain, _Domain()).next_sequence = None
            return
        if session.version not in (None, message.version):
            self._say("message.version", f"{message.version} after {session.version}")
        session.version = message.version
        domain = session.domains.setdefault(message.domain, _Domain())
        self._check_clock(message, at_s, domain)
        self._check_numbers(message, domain)
        now_s = message.time_s if at_s is None else at_s
        for part in message.contents:
            self._take(part, message, domain, session, now_s)

    def _check_clock(self, message: Message, at_s: float | None, domain: _Domain) -> None:
        if at_s is not None and abs(message.time_s - at_s) > self._skew_s:
            self._say("message.time", f"{message.time_s}, and it came at {at_s:.0f}")
        if domain.time_s is not None:
            if message.time_s < domain.time_s:
                self._say("message.time-back", f"{message.time_s} after {domain.time_s}")
            if message.uptime_ms is not None and domain.uptime_ms is not None:
                up_ms = (message.uptime_ms - domain.uptime_ms + 2**31) % 2**32 - 2**31
                past_ms = (message.time_s - domain.time_s) * 1000
                if abs(up_ms - past_ms) > _UPTIME_SLACK_MS:
                    self._say("packet.uptime", f"{up_ms} ms in {past_ms} ms")
        domain.time_s, domain.uptime_ms = message.time_s, message.uptime_ms

    def _check_numbers(self, message: Message, domain: _Domain) -> None:
        records = sum(len(one.records) for one in message.data_sets())
        is_packet = message.version == 9
        if domain.next_sequence not in (None, message.sequence):
            rule = "packet.sequence" if is_packet else "message.sequence"
            self._say(rule, f"{message.sequence} instead of {domain.next_sequence}")
        step = 1 if is_packet else records
        domain.next_sequence = (message.sequence + step) % 2**32
        if message.unknown_sets and not is_packet:
            domain.next_sequence = None
        counted = records + message.template_count
        if is_packet and not message.unknown_sets and message.count != counted:
            self._say("packet.count", f"{message.count} of {counted}")
        if not message.sets:
            self._say("message.empty")
        elif message.sets > 1:
            self._say("advice.one-set", f"{message.sets} Sets")

    def _take(
        self,
        part: Layout | Withdrawal | DataSet,
        message: Message,
        domain: _Domain,
        session: _Session,
        now_s: float,
    ) -> None:
        if isinstance(part, Layout):
            self.totals["templates"] += 1
            self._learn(part, message.version, domain, session, now_s)
        elif isinstance(part, Withdrawal):
            self._withdraw(part, domain, session)
        elif part.layout is None:
            self._say("data.no-template", f"Set {part.number}")
        else:
            self._take_data(part, part.layout, message, domain, session, now_s)

    # --- Templates ----------------------------------------------------------------------------

    def _learn(
        self, layout: Layout, version: int, domain: _Domain, session: _Session, now_s: float
    ) -> None:
        before = domain.templates.get(layout.number)
        domain.templates[layout.number] = _Sent(layout, now_s)
        if before and before.layout == layout:
            self.totals["repeated templates"] += 1
            return
        if before:
            self._check_change(before, layout, session, now_s)
        templates.check(layout, version, self._say)
        domain.announced.use(layout, self._say)
        others = (one for one in session.domains.values() if one is not domain)
        found = [one.templates.get(layout.number) for one in others]
        if any(one and one.layout != layout for one in found):
            self._say("advice.shared-id", f"Template {layout.number}")

    def _check_change(self, before: _Sent, new: Layout, session: _Session, now_s: float) -> None:
        age_s = now_s - before.at_s
        if before.layout.is_options != new.is_options:
            self._say("template.kind", f"Template {new.number}")
        elif not session.is_udp or age_s < _LIFETIMES * self._refresh_s:
            self._say("template.redefined", f"Template {new.number}, {age_s:.0f} s old")

    def _withdraw(self, what: Withdrawal, domain: _Domain, session: _Session) -> None:
        if session.is_udp:
            return self._say("withdrawal.udp", f"Template {what.number}")
        if what.number in (2, 3):
            for number in list(domain.templates):
                if domain.templates[number].layout.is_options == what.is_options:
                    del domain.templates[number]
            return None
        before = domain.templates.get(what.number)
        if before is None:
            return self._say("withdrawal.unknown", f"Template {what.number}")
        if before.layout.is_options != what.is_options:
            return self._say("withdrawal.kind", f"Template {what.number}")
        del domain.templates[what.number]
        return None

    # --- data ---------------------------------------------------------------------------------

    def _take_data(
        self,
        part: DataSet,
        layout: Layout,
        message: Message,
        domain: _Domain,
        session: _Session,
        now_s: float,
    ) -> None:
        age_s = now_s - domain.templates[layout.number].at_s
        if session.is_udp and age_s > self._refresh_s:
            self._say("template.refresh", f"Template {layout.number}, {age_s:.0f} s old")
        if part.records:
            domain.announced.use_in_data(layout)
        self.totals["options" if layout.is_options else "flows"] += len(part.records)
        for octets in part.records:
            values = self._values(layout, octets, message.version, domain)
            self.records.append(Record(message.domain, layout.number, layout.is_options, values))
            if message.version == 10 and is_type_record(layout, values):
                domain.announced.take(layout, values, self._say)
            content.check(layout, values, message, self._oldest_s, self._say)

    def _values(self, layout: Layout, record: list[bytes], version: int, domain: _Domain) -> Values:
        values: Values = {}
        for index, (one, octets) in enumerate(zip(layout.fields, record, strict=True)):
            if templates.is_scope9(layout, index, version):
                values[templates.scope_name(one)] = int.from_bytes(octets, "big")
                continue
            kind = registry.type_of(one) or domain.announced.type_of(one)
            name = registry.name_of(one)
            if kind and one.length != VARIABLE and not registry.is_legal(kind, one.length):
                kind = None  # reported for its Template already
            say = partial(self._say_of, name)
            values.setdefault(name, value_of(kind, octets, version == 9, say))
        return values

    def _say_of(self, name: str, rule: str, text: str) -> None:
        self._say(rule, f"{name}: {text}")
