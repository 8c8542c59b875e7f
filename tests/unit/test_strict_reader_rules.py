"""Tests that the strict reader finds each broken rule, and nothing else."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeVar

import pytest

from tests.support.ipfix.messages import (
    message,
    options_template,
    options_template9,
    packet,
    template,
)
from tests.support.reader import StrictReader
from tests.support.reader.rules import RULES
from tests.support.reader.streams import (
    FIELDS,
    FLOW,
    NOW_S,
    PEN,
    REVERSE,
    TYPE_FIELDS,
    TYPES,
    UPTIME_MS,
    VARIABLE,
    Stream,
    Stream9,
    flow,
    flow9,
    padded,
    text,
    type_record,
)

Ipfix = Callable[[Stream], None]
Netflow9 = Callable[[Stream9], None]
Case = TypeVar("Case", Ipfix, Netflow9)

#: Cases that break a rule: in datagrams, over a connection and in NetFlow v9.
DATAGRAMS: list[tuple[str, Ipfix]] = []
CONNECTIONS: list[tuple[str, Ipfix]] = []
PACKETS: list[tuple[str, Netflow9]] = []


def breaks(rule: str, into: list[tuple[str, Case]]) -> Callable[[Case], Case]:
    def note(case: Case) -> Case:
        into.append((rule, case))
        return case

    return note


@breaks("message.short", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.raw(b"\0\x0a\0\x0a" + bytes(6))


@breaks("message.version", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.raw(message(version=5))


@breaks("message.version", DATAGRAMS)
def _(stream: Stream) -> None:
    """The version changes within a session."""
    stream.begin()
    stream.raw(packet((0, template(500, (8, 4))), count=1, time_s=NOW_S, source=2))


@breaks("message.length", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.raw(message((2, template(FLOW, *FIELDS)), time_s=NOW_S) + b"\0\0\0\0")


@breaks("message.length", CONNECTIONS)
def _(stream: Stream) -> None:
    """The connection ends within a message."""
    stream.begin()
    stream.raw(message((FLOW, flow()), sequence=1, time_s=NOW_S)[:-1])


@breaks("message.time", DATAGRAMS)
def _(stream: Stream) -> None:
    octets = message((2, template(FLOW, (8, 4))), time_s=NOW_S - 60)
    stream.raw(octets, NOW_S)


@breaks("message.time-back", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.send((2, template(FLOW, *FIELDS)), time_s=NOW_S - 2)


@breaks("message.sequence", DATAGRAMS)
def _(stream: Stream) -> None:
    """The sequence counts messages instead of records."""
    stream.begin()
    stream.flows(flow(), flow())
    stream.sequence -= 1
    stream.flows(flow())


@breaks("message.sequence", DATAGRAMS)
def _(stream: Stream) -> None:
    """The sequence counts Template Records, too."""
    stream.begin()
    stream.sequence += 2
    stream.flows(flow())


@breaks("message.size", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.flows(*[flow()] * 30)


@breaks("message.fragment", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.reader.fragmented("from 192.0.2.1")


@breaks("message.empty", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.send()


@breaks("set.reserved", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.send((4, bytes(4)))


@breaks("set.reserved", PACKETS)
def _(stream: Stream9) -> None:
    stream.send((2, bytes(4)), count=0)


@breaks("set.length", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.raw(struct.pack("!HHIIIHH", 10, 20, NOW_S, 0, 1, 2, 3))


@breaks("set.overrun", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.raw(struct.pack("!HHIIIHHI", 10, 24, NOW_S, 0, 1, 2, 12, 0))


@breaks("set.trailing", DATAGRAMS)
def _(stream: Stream) -> None:
    octets = bytearray(message((2, template(FLOW, (8, 4))), time_s=NOW_S) + b"\0\0")
    octets[2:4] = struct.pack("!H", len(octets))
    stream.raw(bytes(octets))


@breaks("set.empty", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.send((2, b""))


@breaks("set.empty", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.send((FLOW, b""))


@breaks("set.padding-value", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.send((FLOW, flow() + b"\0\1"), records=1)


@breaks("set.padding-length", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.send((2, template(FLOW, (8, 4)) + bytes(8)))


@breaks("template.id", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.template((8, 4), number=255)


@breaks("template.id", CONNECTIONS)
def _(stream: Stream) -> None:
    stream.send((2, template(5)))


@breaks("template.cut", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.send((2, template(FLOW, (8, 4), (12, 4))[:-2]))


@breaks("template.cut", DATAGRAMS)
def _(stream: Stream) -> None:
    """The Template is cut within an enterprise number."""
    stream.send((2, template(FLOW, (1, 4, PEN))[:-2]))


@breaks("template.no-field", PACKETS)
def _(stream: Stream9) -> None:
    stream.send((0, template(FLOW)), count=1)


@breaks("template.zero-length", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.template((8, 4), (82, 0))


@breaks("template.length", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.template((8, 3))


@breaks("template.length", DATAGRAMS)
def _(stream: Stream) -> None:
    """A length exceeds the size of the element."""
    stream.template((4, 2))


@breaks("template.length", PACKETS)
def _(stream: Stream9) -> None:
    stream.send((0, template(FLOW, (27, 4))), count=1)


@breaks("template.variable", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.template((4, VARIABLE))


@breaks("template.unknown", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.template((8, 4), (32000, 4))


@breaks("template.enterprise", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.template((8, 4, 0))


@breaks("template.twice", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.template((8, 4), (8, 4))


@breaks("template.families", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.template((8, 4), (27, 16))


@breaks("template.scope", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.send((3, options_template(TYPES, 0, (82, 4))))


@breaks("template.scope", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.send((3, options_template(TYPES, 2, (10, 4))))


@breaks("template.kind", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.send((3, options_template(FLOW, 1, (10, 4), (82, 8))))


@breaks("template.redefined", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.send((2, template(FLOW, (8, 4))), time_s=NOW_S + 1799)


@breaks("template.redefined", CONNECTIONS)
def _(stream: Stream) -> None:
    """A Template is redefined, however late."""
    stream.begin()
    stream.send((2, template(FLOW, (8, 4))), time_s=NOW_S + 1_000_000)


@breaks("template.refresh", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.send((FLOW, flow()), records=1, time_s=NOW_S + 601)


@breaks("withdrawal.udp", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.send((2, template(FLOW)))


@breaks("withdrawal.unknown", CONNECTIONS)
def _(stream: Stream) -> None:
    stream.send((2, template(FLOW)))


@breaks("withdrawal.kind", CONNECTIONS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.send((3, template(FLOW)))


@breaks("flowset.alignment", PACKETS)
def _(stream: Stream9) -> None:
    stream.begin()
    stream.send((FLOW, flow9()), count=1)


@breaks("flowset.scope", PACKETS)
def _(stream: Stream9) -> None:
    stream.send((1, padded(options_template9(TYPES, 1, (6, 4), (82, 4)))), count=1)


@breaks("flowset.options", PACKETS)
def _(stream: Stream9) -> None:
    octets = bytearray(options_template9(TYPES, 1, (2, 4), (82, 4)))
    octets[4:6] = struct.pack("!H", 5)
    stream.send((1, padded(bytes(octets))), count=1)


@breaks("flowset.variable", PACKETS)
def _(stream: Stream9) -> None:
    stream.send((0, template(FLOW, (8, 4), (82, VARIABLE))), count=1)


@breaks("flowset.enterprise", PACKETS)
def _(stream: Stream9) -> None:
    stream.send((0, template(FLOW, (8, 4), (1, 4, PEN))), count=1)


@breaks("data.no-template", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.flows(flow())


@breaks("data.no-template", CONNECTIONS)
def _(stream: Stream) -> None:
    """The Template was withdrawn."""
    stream.begin()
    stream.send((2, template(2)))
    stream.flows(flow())


@breaks("data.cut", DATAGRAMS)
def _(stream: Stream) -> None:
    """The Set is shorter than its shortest record."""
    stream.begin()
    stream.send((FLOW, flow()[:20]), records=1)


@breaks("data.cut", DATAGRAMS)
def _(stream: Stream) -> None:
    """The Set ends within a string of variable length."""
    stream.begin()
    stream.send((FLOW, flow(name=b"x" * 50)[:-1]), records=1)


@breaks("data.long-form", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.flows(flow().replace(text(b"curl"), b"\xff\0\4curl"))


@breaks("value.utf8", DATAGRAMS)
def _(stream: Stream) -> None:
    """A name is cut within a character."""
    stream.begin()
    stream.flows(flow(name="größe".encode()[:3]))


@breaks("value.nul", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.flows(flow(name=b"eth0\0\0"))


@breaks("value.control", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.flows(flow(name=b"\x1b[31m"))


@breaks("value.boolean", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.flows(flow(truth=0))


@breaks("value.range", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.flows(flow(version=5))


@breaks("value.range", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.template((8, 4), (136, 1))
    stream.send((400, bytes(4) + b"\6"), records=1)


@breaks("flow.order", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.flows(flow(start_ms=NOW_S * 1000 - 10, end_ms=NOW_S * 1000 - 20))


@breaks("flow.order", PACKETS)
def _(stream: Stream9) -> None:
    stream.begin()
    stream.flows(flow9(start_ms=UPTIME_MS - 10, end_ms=UPTIME_MS - 20))


@breaks("flow.future", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.flows(flow(end_ms=NOW_S * 1000 + 1001))


@breaks("flow.future", PACKETS)
def _(stream: Stream9) -> None:
    """Times do not belong to the boot of the header."""
    stream.begin()
    stream.flows(flow9(end_ms=UPTIME_MS + 1001))


@breaks("flow.old", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.flows(flow(start_ms=(NOW_S - 90_000) * 1000))


@breaks("flow.zero", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.flows(flow(octets=400, packets=0))


@breaks("flow.small", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.flows(flow(octets=79, packets=4))


@breaks("biflow.irreversible", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.template((148, 8), (148, 8, REVERSE), (239, 1))


@breaks("biflow.forward", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.template((1, 8), (2, 8, REVERSE), (239, 1))


@breaks("biflow.direction", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.template((1, 8), (1, 8, REVERSE))
    stream.send((400, bytes(16)), records=1)


@breaks("type.missing", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.template((8, 4), (2, 4, PEN))


@breaks("type.late", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.template((8, 4), (2, 4, PEN))
    stream.send((400, bytes(8)), records=1)
    stream.send((TYPES, type_record(2, 3)), records=1)


@breaks("type.unknown", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.send((TYPES, type_record(2, 99)), records=1)


@breaks("type.scope", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.send((3, options_template(TYPES, 1, *TYPE_FIELDS)))
    stream.send((TYPES, type_record()), records=1)


@breaks("type.name", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.send((TYPES, type_record(2, name=b"")), records=1)


@breaks("type.changed", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.begin()
    stream.send((TYPES, type_record(name=b"OTHER")), records=1)


@breaks("type.length", DATAGRAMS)
def _(stream: Stream) -> None:
    """The Template comes after its types."""
    stream.begin()
    stream.send((TYPES, type_record(2, 1)), records=1)
    stream.template((8, 4), (2, 4, PEN))


@breaks("type.length", DATAGRAMS)
def _(stream: Stream) -> None:
    """The types come after the Template."""
    stream.begin()
    stream.template((8, 4), (2, VARIABLE, PEN))
    stream.send((TYPES, type_record(2, 1)), records=1)


@breaks("packet.sequence", PACKETS)
def _(stream: Stream9) -> None:
    """The sequence counts records instead of packets."""
    stream.begin()
    stream.flows(flow9(), flow9())
    stream.sequence += 1
    stream.flows(flow9())


@breaks("packet.count", PACKETS)
def _(stream: Stream9) -> None:
    stream.begin()
    stream.send((FLOW, padded(flow9() * 2)), count=1)


@breaks("packet.uptime", PACKETS)
def _(stream: Stream9) -> None:
    stream.begin()
    stream.send((0, template(FLOW, (8, 4))), count=1, time_s=NOW_S + 2000, uptime_ms=UPTIME_MS + 9)


@breaks("advice.padding", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.send((2, template(FLOW, (8, 4)) + b"\0\0"))


@breaks("advice.tcp-flags", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.template((6, 2))


@breaks("advice.counter", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.template((1, 2))


@breaks("advice.strings", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.send((3, options_template(TYPES, 1, (10, 4), (82, VARIABLE), (83, VARIABLE))))


@breaks("advice.shared-id", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.template((8, 4))
    stream.domain = 2
    stream.template((12, 4))


@breaks("advice.one-set", DATAGRAMS)
def _(stream: Stream) -> None:
    stream.send((2, template(400, (8, 4))), (400, bytes(4)), records=1)


@breaks("advice.private", PACKETS)
def _(stream: Stream9) -> None:
    stream.send((0, template(FLOW, (57590, 4))), count=1)


def _numbered(cases: list[tuple[str, Case]]) -> list[object]:
    return [pytest.param(rule, case, id=f"{rule}-{at}") for at, (rule, case) in enumerate(cases)]


@pytest.mark.parametrize(("rule", "case"), _numbered(DATAGRAMS))
def test_a_broken_stream_of_datagrams(rule: str, case: Ipfix) -> None:
    """The reader finds this rule and no other."""
    reader = StrictReader()
    case(Stream(reader))
    assert {finding.rule.name for finding in reader.finish()} == {rule}, reader.broken()


@pytest.mark.parametrize(("rule", "case"), _numbered(CONNECTIONS))
def test_a_broken_connection(rule: str, case: Ipfix) -> None:
    reader = StrictReader()
    case(Stream(reader, "tcp"))
    assert {finding.rule.name for finding in reader.finish()} == {rule}, reader.broken()


@pytest.mark.parametrize(("rule", "case"), _numbered(PACKETS))
def test_a_broken_stream_of_netflow9(rule: str, case: Netflow9) -> None:
    reader = StrictReader()
    case(Stream9(reader))
    assert {finding.rule.name for finding in reader.finish()} == {rule}, reader.broken()


def test_every_rule_has_a_stream_that_breaks_it() -> None:
    tried = [rule for cases in (DATAGRAMS, CONNECTIONS, PACKETS) for rule, _ in cases]
    assert set(tried) == RULES.keys()
