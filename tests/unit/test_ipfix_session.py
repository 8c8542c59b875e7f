"""Tests the Exporting Process' messages, read by scapy and by our own decoder."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from probe.errors import ConfigError
from probe.flow.owner import OwnerTable
from probe.ipfix.decode import CollectingProcess, Record
from probe.ipfix.message import Framing, JoinedRecords, PackedRecords, frame_records
from probe.ipfix.session import ExportSession
from probe.ipfix.template import TemplateDefinition
from probe.ipfix.wire import IPFIX
from probe.mapping import Encoder, load_elements, load_template
from tests.support.ipfix.sessions import make_session, make_session9, messages_of
from tests.support.records import NOW_S, flow_records, owner, owner_table


def make_plain_session() -> ExportSession:
    """Returns a session with IANA's elements only, because scapy ignores enterprise numbers."""
    definition = load_template("full", load_elements())
    positions = tuple(pair for pair in definition.positions if not pair[0].element.pen)
    return ExportSession(Encoder(TemplateDefinition("plain", positions), owner_table()))


def header(message: bytes) -> tuple[int, ...]:
    """Returns version, length, export time, sequence, odid, set id and set length."""
    return struct.unpack_from("!HHIIIHH", message)


def decode(messages: list[bytes]) -> list[Record]:
    collector = CollectingProcess(load_elements())
    records = [record for message in messages for record in collector.decode(message, "peer")]
    assert collector.statistics.lost_records == collector.statistics.lost_messages == 0
    assert collector.statistics.errors == collector.statistics.unknown_sets == 0
    return records


def test_templates_and_types_come_before_data() -> None:
    session = make_session()
    messages = messages_of(session.messages(flow_records(3), NOW_S))
    types, ipv4, *_ = (template.id for template in session.templates)
    sets = [header(message)[5] for message in messages]
    described = sets.count(types)  # type records: more than one message holds
    assert described > 1
    assert sets == [3, *[types] * described, 2, 2, 2, ipv4]


def test_headers_are_right_and_one_set_fills_a_message() -> None:
    messages = messages_of(make_session().messages(flow_records(100), NOW_S))
    for message in messages:
        version, length, export_time, _, odid, _, set_length = header(message)
        assert (version, length, export_time, odid) == (10, len(message), int(NOW_S), 7)
        assert set_length == length - 16
        assert length <= 1400


def test_sequence_counts_data_records_only() -> None:
    session = make_session("numeric")
    first = messages_of(session.messages(flow_records(25), NOW_S))
    types = session.statistics.option_records
    # 11 records of 120 octets fit beside 20 octets of headers. Type records are Data Records too.
    sequences = [header(message)[3] for message in first]
    assert sequences[:2] == [0, 0]
    assert 0 < sequences[2] < types, "two messages of types"
    assert sequences[3:] == [*[types] * 4, types + 11, types + 22]
    (second,) = messages_of(session.messages(flow_records(1), NOW_S))
    assert header(second)[3] == types + 25


def test_sequence_wraps() -> None:
    framing = Framing(IPFIX, 256, 0, 0, 0xFFFFFFFF, 1, 60)
    (train,) = frame_records(framing, PackedRecords(np.zeros((3, 40), np.uint8)))
    assert [header(bytes(message))[3] for message in train] == [0xFFFFFFFF, 0, 1]


def test_templates_are_sent_again_in_time() -> None:
    session = make_session(refresh_s=600)
    nothing = flow_records(0)
    at_start = len(messages_of(session.messages(nothing, NOW_S)))
    assert at_start == 7
    assert session.messages(nothing, NOW_S + 599.9) == []
    assert len(messages_of(session.messages(nothing, NOW_S + 600))) == 4, "Templates"
    assert session.messages(nothing, NOW_S + 601) == []
    assert len(messages_of(session.messages(nothing, NOW_S + 300))) == 4, "clock set back"
    session.resend_templates()
    assert len(messages_of(session.messages(nothing, NOW_S + 301))) == at_start


def test_types_are_sent_with_every_tenth_refresh() -> None:
    session = make_session(refresh_s=60)
    types = session.templates[0].id
    seen = []
    for refresh in range(25):
        messages = messages_of(session.messages(flow_records(0), NOW_S + 60 * refresh))
        sets = [header(message)[5] for message in messages]
        assert sets.count(2) == 3
        seen.append(types in sets)
    assert [place for place, has_types in enumerate(seen) if has_types] == [0, 10, 20]


def test_statistics() -> None:
    session = make_session()
    messages = messages_of(session.messages(flow_records(50), NOW_S))
    statistics = session.statistics
    assert (statistics.messages, statistics.octets) == (len(messages), sum(map(len, messages)))
    assert (statistics.data_records, statistics.template_records) == (50, 4)
    assert statistics.option_records == 38


@pytest.mark.parametrize("size", [600, 1280, 1400, 9000])
def test_no_message_is_larger_than_allowed(size: int) -> None:
    session = make_session("full", max_message=size)
    messages = messages_of(session.messages(flow_records(200), NOW_S))
    assert max(map(len, messages)) <= size
    assert sorted(record["flowId"] for record in decode(messages)) == list(range(1, 201))


def test_a_smaller_path_makes_smaller_messages() -> None:
    session = make_session("full")
    session.messages(flow_records(10), NOW_S)
    session.max_message = 700
    assert max(map(len, messages_of(session.messages(flow_records(50), NOW_S)))) <= 700


def test_a_message_size_without_room_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not fit into messages of 300 octets") as caught:
        make_session("full", max_message=300)
    least = int(str(caught.value).partition("at least ")[2].partition(",")[0])
    assert make_session("full", max_message=least).max_message == least
    with pytest.raises(ConfigError):
        make_session("full", max_message=least - 1)


@pytest.mark.parametrize("make", [make_session, make_session9])
def test_a_path_without_room_for_a_record_is_not_followed(
    make: Callable[[], ExportSession],
) -> None:
    """A message may exceed the path's limit. It is not lost, but leaves in fragments."""
    session = make()
    session.max_message = 300
    least = session.max_message
    assert least == session.least_message > 300
    messages = messages_of(session.messages(flow_records(100), NOW_S))
    assert least * 0.8 < max(map(len, messages)) <= least
    assert sorted(record["flowId"] for record in decode(messages)) == list(range(1, 101))
    session.max_message = 1400
    assert max(map(len, messages_of(session.messages(flow_records(100), NOW_S)))) > least


@pytest.mark.parametrize(
    ("make", "octets"), [(make_session, 700), (make_session, 0), (make_session9, 1000)]
)
def test_messages_that_wait_are_cut_anew(make: Callable[[], ExportSession], octets: int) -> None:
    """Every record leaves once and in order, with its packets and octets counted."""
    session = make()
    sent = session.messages(flow_records(50), NOW_S)
    waiting = session.messages(flow_records(300), NOW_S)
    session.max_message = octets
    cut = session.recut(waiting)
    assert max(train.size for train in waiting) > 1200
    assert max(train.size for train in cut) <= session.max_message
    for value in ("records", "flow_records", "packets", "flow_octets"):
        assert sum(getattr(one, value) for one in cut) == sum(
            getattr(one, value) for one in waiting
        )
    following = session.messages(flow_records(9), NOW_S)
    messages = messages_of(sent + cut + following)
    statistics = session.statistics
    assert (statistics.messages, statistics.octets) == (len(messages), sum(map(len, messages)))
    found = [record["flowId"] for record in decode(messages)]
    whole = decode(messages_of(sent + waiting))
    assert found[: len(whole)] == [record["flowId"] for record in whole]
    assert len(found) == 359


def test_records_with_longer_strings_than_now_fit_are_cut_anew_too() -> None:
    table = OwnerTable()
    table.add(replace(owner(1), process=replace(owner(1).process, path="/" + "x" * 600)))
    session = ExportSession(Encoder(load_template("full", load_elements()), table))
    templates = session.messages(flow_records(0), NOW_S)
    waiting = session.messages(flow_records(20, owners=1), NOW_S)
    session.max_message = session.least_message
    cut = session.recut(waiting)
    assert max(train.size for train in cut) > session.least_message, "strings are not cut again"
    assert len(decode(messages_of(templates + cut))) == 20


def test_nothing_waits() -> None:
    session = make_session()
    session.messages(flow_records(1), NOW_S)
    assert session.recut([]) == []


def test_messages_of_equal_length_travel_together() -> None:
    trains = make_session("numeric").messages(flow_records(1000), NOW_S)
    assert [len(train) for train in trains] == [1, 1, 1, 1, 1, 1, 91]
    assert sum(train.records for train in trains) == 1000 + 17


def test_joined_records_fill_messages_greedily() -> None:
    texts = [b"x" * n for n in (10, 20, 30, 40, 5, 5, 5)]
    records = JoinedRecords([texts], np.array([len(text) for text in texts]))
    trains = frame_records(Framing(IPFIX, 256, 0, 0, 100, 1, 20 + 50), records)
    messages = messages_of(trains)
    assert [len(message) - 20 for message in messages] == [30, 30, 50, 5]
    assert [header(message)[3] for message in messages] == [100, 102, 103, 106]
    assert [train.records for train in trains] == [3, 3, 1]
    assert [train.size for train in trains] == [50, 70, 25]
    assert b"".join(message[20:] for message in messages) == b"".join(texts)


def test_a_record_without_room_is_a_bug() -> None:
    framing = Framing(IPFIX, 256, 0, 0, 0, 1, 60)
    with pytest.raises(ValueError, match="a record of 41 octets"):
        frame_records(framing, PackedRecords(np.zeros((1, 41), np.uint8)))
    with pytest.raises(ValueError, match="a record of 41 octets"):
        frame_records(framing, JoinedRecords([[b"x" * 41]], np.array([41])))


def test_types_are_announced_for_every_enterprise_element() -> None:
    """RFC 5610: a collector learns the names of an exporter's elements from the stream alone."""
    messages = messages_of(make_session().messages(flow_records(1), NOW_S))
    without_own = load_elements()
    for name in [element.name for element in without_own if element.pen]:
        del without_own._by_number[without_own[name].pen, without_own[name].id]
    collector = CollectingProcess(without_own)
    (record,) = [record for message in messages for record in collector.decode(message, "peer")]
    assert record["sourceProcessPath"] == "/usr/bin/worker-1"
    assert record["SRC_PROC_PID"] == 1001
    assert record["countersEstimated"] is False
    assert not any("/" in name for name in record)


def test_a_template_without_enterprise_elements_needs_no_types() -> None:
    session = make_plain_session()
    messages = messages_of(session.messages(flow_records(1), NOW_S))
    assert [header(message)[5] for message in messages] == [2, 2, 2, session.templates[0].id]


def test_scapy_reads_the_same_records() -> None:
    netflow = importlib.import_module("scapy.layers.netflow")
    session = make_plain_session()
    messages = messages_of(session.messages(flow_records(25), NOW_S))
    packets = [netflow.NetflowHeader(message) for message in messages]
    packets = netflow.netflowv9_defragment(packets)
    parsed = [
        record
        for packet in packets
        if packet.haslayer(netflow.NetflowDataflowsetV9)
        and packet[netflow.NetflowDataflowsetV9].templateID == session.templates[0].id
        for record in packet[netflow.NetflowDataflowsetV9].records
    ]
    assert len(parsed) == 25
    assert sorted(record.IN_BYTES for record in parsed) == list(range(1000, 1025))
    assert {record.IPV4_SRC_ADDR for record in parsed} == {f"10.0.0.{n}" for n in range(25)}
