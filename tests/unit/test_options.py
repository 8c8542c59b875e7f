"""Tests Options Templates: their declarations, their records, and sessions that restart."""

from __future__ import annotations

import struct

import pytest

from probe.errors import ConfigError
from probe.ipfix.options import encode_options, parse_options
from probe.ipfix.session import ExportSession, Options
from probe.ipfix.template import Field, template_id
from probe.mapping import Encoder, load_elements, load_options, load_profile, load_template
from tests.support.ipfix.sessions import messages_of
from tests.support.records import NOW_S, flow_records, owner_table

ELEMENTS = load_elements()
OPTIONS = load_options(ELEMENTS)


def make_session(causes: list[str], **settings: object) -> ExportSession:
    def read() -> dict[str, list[dict[str, int | str]]]:
        return {"losses": [{"lossCause": cause, "lossTotalCount": 7} for cause in causes]}

    encoder = Encoder(load_template("numeric", ELEMENTS), owner_table())
    options = Options([OPTIONS["types"], OPTIONS["losses"]], read)
    return ExportSession(encoder, options=options, **settings)  # type: ignore[arg-type]


def set_ids(messages: list[bytes]) -> list[int]:
    return [struct.unpack_from("!H", message, 16)[0] for message in messages]


def sequences(messages: list[bytes]) -> list[int]:
    return [struct.unpack_from("!I", message, 8)[0] for message in messages]


def test_a_record_is_cut_padded_and_saturated() -> None:
    template = OPTIONS["losses"].template(300)
    octets = encode_options(
        template,
        [{"meteringProcessId": 1 << 40, "lossCause": "é" * 20, "lossTotalCount": 5}],
    )
    expected = b"\xff" * 4 + ("é" * 16).encode() + struct.pack("!Q", 5)
    assert octets.octets.tobytes() == expected  # type: ignore[union-attr]
    short = encode_options(template, [{"lossCause": "ring"}])
    assert short.octets.tobytes() == bytes(4) + b"ring" + bytes(28 + 8)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "text",
    ["name octetDeltaCount", "name | octetDeltaCount", "name octetDeltaCount |", "name x | y",
     "name octetDeltaCount | interfaceName[0]"],
)  # fmt: skip
def test_a_bad_declaration_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^f:1: "):
        parse_options(text, "f", ELEMENTS)


def test_what_nfdump_gets_has_no_variable_length_field() -> None:
    """nfdump 1.7.8 refuses an Options Template with such a field beside another one."""
    for name in load_profile("nfdump").options:
        assert not OPTIONS[name].template(256).has_variable_length
    variable = {name for name in OPTIONS if OPTIONS[name].template(256).has_variable_length}
    assert variable == {"types", "counters"}


def test_options_are_sent_with_the_templates_and_when_they_change() -> None:
    session = make_session(["ring", "map"], refresh_s=600)
    losses = session.templates[1].id
    start = messages_of(session.messages(flow_records(0), NOW_S))
    types = [session.templates[0].id] * 2
    assert set_ids(start) == [3, *types, 3, 2, 2, 2, losses]
    assert session.messages(flow_records(0), NOW_S + 599) == []
    session.resend_options()
    assert set_ids(messages_of(session.messages(flow_records(0), NOW_S + 599))) == [losses]
    again = messages_of(session.messages(flow_records(0), NOW_S + 600))
    assert set_ids(again) == [3, 3, 2, 2, 2, losses], "without the types"
    assert set_ids(messages_of(session.last_messages(NOW_S + 601))) == [losses]


def test_the_enterprise_elements_of_options_are_described_too() -> None:
    session = make_session(["ring"])
    messages = messages_of(session.messages(flow_records(0), NOW_S))
    assert any(b"lossTotalCount" in message for message in messages[1:3])


def test_on_a_stream_templates_begin_each_connection() -> None:
    """RFC 7011 section 10.4: waiting messages follow the Templates, numbered from the start."""
    session = make_session(["ring"], repeats_templates=False, refresh_s=600)
    backlog = session.messages(flow_records(25), NOW_S)
    assert 2 not in set_ids(messages_of(backlog)), "no Templates without a connection"
    types, losses, data = (template.id for template in session.templates[:3])
    for connection in range(2):
        trains = session.restart(backlog, NOW_S + connection)
        messages = messages_of(trains)
        assert set_ids(messages) == [3, types, types, 3, 2, 2, 2, losses, data, data, data]
        described = trains[1].records + trains[2].records
        before = [
            0,
            0,
            trains[1].records,
            *[described] * 5,
            described + 1,
            described + 12,
            described + 23,
        ]
        assert sequences(messages) == before
        following = session.messages(flow_records(1), NOW_S + connection)
        assert sequences(messages_of(following)) == [described + 26]
    assert messages_of(session.messages(flow_records(0), NOW_S + 3000))[0][
        16:18
    ] == losses.to_bytes(2, "big")


def test_template_ids_follow_from_the_layout() -> None:
    fields = [Field(ELEMENTS["octetDeltaCount"], 8), Field(ELEMENTS["flowId"], 8)]
    number = template_id(fields, ())
    assert number == template_id(list(fields), ())
    assert number != template_id(fields[::-1], ())
    assert number != template_id(fields, (), scope_count=1)
    assert template_id(fields, {number}) == number + 1
    assert template_id(fields, range(256, 65535)) == 65535


def test_all_template_ids_of_a_session_differ() -> None:
    ids = [template.id for template in make_session(["ring"]).templates]
    assert len(set(ids)) == len(ids)
    assert all(256 <= number <= 65535 for number in ids)


def test_counters_are_sent_on_a_timetable_of_their_own() -> None:
    """They leave with the first Templates, each minute and at the end.

    Other options that are due do not bring them.
    """
    reads: list[int] = []

    def read() -> list[dict[str, int | str]]:
        reads.append(1)
        return [{"ingressInterface": 7, "interfaceContainerName": "shop/web-1/nginx" * 9}]

    encoder = Encoder(load_template("numeric", ELEMENTS), owner_table())
    options = Options([OPTIONS["counters"]], periodic={"counters": read}, period_s=60)
    session = ExportSession(encoder, options=options, refresh_s=600)
    counters = session.templates[0].id
    assert set_ids(messages_of(session.messages(flow_records(0), NOW_S))) == [3, 2, 2, 2, counters]
    session.resend_options()
    assert session.messages(flow_records(0), NOW_S + 59) == []
    (message,) = messages_of(session.messages(flow_records(0), NOW_S + 60))
    assert set_ids([message]) == [counters]
    assert b"shop/web-1/nginx" * 9 in message
    assert set_ids(messages_of(session.last_messages(NOW_S + 61))) == [counters]
    assert session.messages(flow_records(0), NOW_S + 120) == []
    assert len(messages_of(session.messages(flow_records(0), NOW_S + 30))) == 1, "the clock was set"
    assert len(reads) == 4
