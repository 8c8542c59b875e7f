"""Tests the Exporting Process' NetFlow v9, read octet by octet as RFC 3954 says."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import pytest

from probe.errors import ConfigError
from probe.ipfix.elements import Element
from probe.ipfix.netflow9 import parse_netflow9
from probe.ipfix.template import Field
from probe.ipfix.types import TYPES
from probe.mapping import load_elements, load_netflow9
from tests.support.ipfix.sessions import BOOT_S, make_session9, messages_of
from tests.support.records import NOW_NS, NOW_S, flow_records

ELEMENTS = load_elements()


def header(message: bytes) -> tuple[int, ...]:
    """Returns version, count, sysUptime, unix seconds, sequence and source id."""
    return struct.unpack_from("!HHIIII", message)


def flow_sets(message: bytes) -> Iterator[tuple[int, bytes]]:
    at = 20
    while at < len(message):
        number, length = struct.unpack_from("!HH", message, at)
        yield number, message[at + 4 : at + length]
        at += length
    assert at == len(message)


def field_types(template: bytes) -> list[tuple[int, int]]:
    _, count = struct.unpack_from("!HH", template)
    return [struct.unpack_from("!HH", template, 4 + 4 * n) for n in range(count)]


@pytest.mark.parametrize("name", ["full", "numeric"])
def test_count_and_sequence(name: str) -> None:
    """Count includes all records of the packet, Templates too. The sequence numbers packets."""
    session = make_session9(name)
    lengths = {template.id: template.fixed_length for template in session.templates}
    messages = messages_of(session.messages(flow_records(101), NOW_S))
    messages += messages_of(session.messages(flow_records(7, ip_version=6), NOW_S + 1))
    assert [header(message)[4] for message in messages] == list(range(len(messages)))
    counted = 0
    for message in messages:
        (found,) = flow_sets(message)
        number, body = found
        assert len(message) % 4 == 0
        if number > 255:
            assert header(message)[1] == len(body) // lengths[number]
            assert not any(body[len(body) // lengths[number] * lengths[number] :])
            counted += header(message)[1]
    assert counted == 108 + session.statistics.option_records
    templates = len(session.templates)
    assert sum(header(message)[1] for message in messages) == counted + templates


def test_times_are_relative_to_sys_uptime() -> None:
    session = make_session9("numeric")
    messages = messages_of(session.messages(flow_records(1), NOW_S + 0.7))
    _, _, uptime_ms, seconds, _, _ = header(messages[-1])
    fields = session.templates[1].fields
    body = next(flow_sets(messages[-1]))[1]
    offsets = np.cumsum([0, *(field.length for field in fields)])
    at = {field.element.id: int(offset) for field, offset in zip(fields, offsets, strict=False)}
    first, last = (struct.unpack_from("!I", body, at[number])[0] for number in (22, 21))
    assert uptime_ms == (int(NOW_S) + 1 - BOOT_S) * 1000, "no flow is younger than its packet"
    booted_ms = seconds * 1000 - uptime_ms
    assert booted_ms + first == (NOW_NS - 5_000_000_000) // 1_000_000
    assert booted_ms + last == (NOW_NS - 3_500_000_000) // 1_000_000


def test_vendor_elements_have_field_types_and_fixed_lengths() -> None:
    session = make_session9("full")
    messages = messages_of(session.messages(flow_records(0), NOW_S))
    templates = next(
        body for message in messages for number, body in flow_sets(message) if not number
    )
    types = dict(field_types(templates))
    assert types[57472 + 169] == 16
    assert types[57472 + 558] == 64
    assert types[60003] == 48
    assert {21, 22} <= types.keys()
    assert not {152, 153} & types.keys()
    assert 65535 not in types.values()
    assert not any(number == 35632 for number in types)


def test_an_options_template_counts_octets() -> None:
    """RFC 3954 section 6.1: scope and options have lengths in octets. Scope type 1 is System."""
    messages = messages_of(make_session9("full").messages(flow_records(0), NOW_S))
    body = next(body for message in messages for number, body in flow_sets(message) if number == 1)
    number, scope, options = struct.unpack_from("!HHH", body)
    assert number > 255
    assert struct.unpack_from("!HH", body, 6) == (1, 4)
    assert scope == 4
    assert options == 8 * 4  # the scope in IPFIX and six more
    assert len(body) == 6 + scope + options + 2, "padded to four octets"


def test_names_of_vendors_are_cut_at_a_character() -> None:
    table = load_netflow9(ELEMENTS)
    element = ELEMENTS["SRC_PROC_NAME"]
    field = table.field(Field(element, 65535))
    assert field is not None
    assert (field.element.id, field.element.pen, field.length) == (57641, 0, 16)
    assert table.element(57641) is element


def test_an_element_without_a_number_is_left_out() -> None:
    table = load_netflow9(ELEMENTS)
    stranger = Element("stranger", 4711, 5, TYPES["unsigned32"])
    assert table.field(Field(stranger, 4)) is None
    assert table.field(Field(ELEMENTS["applicationName"], 65535)) is None, "no fixed length"
    assert table.field(Field(ELEMENTS["applicationName"], 20)) is not None


@pytest.mark.parametrize(
    "line",
    ["SRC_PROC_PID 57640", "nonsense 5 -", "SRC_PROC_PID 0 -", "SRC_PROC_PID 70000 -",
     "SRC_PROC_NAME 57641 -", "SRC_PROC_PID 57640 5", "SRC_PROC_PID = nonsense"],
)  # fmt: skip
def test_a_bad_line_is_refused_with_its_place(line: str) -> None:
    with pytest.raises(ConfigError, match=r"^some/file:2: "):
        parse_netflow9("# comment\n" + line, "some/file", ELEMENTS)
