"""Tests the Collecting Process on NetFlow v9 (RFC 3954)."""

from __future__ import annotations

import struct

import pytest

from probe.errors import DecodeError
from probe.ipfix.decode import CollectingProcess
from probe.ipfix.oddity import Oddity
from probe.mapping import load_elements, load_netflow9
from tests.support.ipfix.messages import (
    message,
    options_template,
    options_template9,
    packet,
    template,
)

NOW_S = 1_767_323_045
FLOW = [(8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (6, 1), (1, 4), (2, 4), (22, 4), (21, 4)]


@pytest.fixture
def collector() -> CollectingProcess:
    elements = load_elements()
    return CollectingProcess(elements, load_netflow9(elements))


def flow(octets: int = 1500, first_ms: int = 1000, last_ms: int = 2000) -> bytes:
    ends = bytes([192, 0, 2, 1, 192, 0, 2, 2])
    return ends + struct.pack("!HHBBIIII", 40000, 443, 6, 0x1B, octets, 3, first_ms, last_ms)


def test_a_flow_with_unix_times(collector: CollectingProcess) -> None:
    sets = (0, template(256, *FLOW)), (256, flow() + b"\0\0")
    (record,) = collector.decode(packet(*sets, count=2, uptime_ms=5000, time_s=NOW_S), "peer")
    assert record == {
        "sourceIPv4Address": "192.0.2.1",
        "destinationIPv4Address": "192.0.2.2",
        "sourceTransportPort": 40000,
        "destinationTransportPort": 443,
        "protocolIdentifier": 6,
        "tcpControlBits": 0x1B,
        "octetDeltaCount": 1500,
        "packetDeltaCount": 3,
        "flowStartSysUpTime": 1000,
        "flowEndSysUpTime": 2000,
        "flowStartMilliseconds": NOW_S * 1000 - 4000,
        "flowEndMilliseconds": NOW_S * 1000 - 3000,
    }
    statistics = collector.statistics
    assert (statistics.records, statistics.template_records, statistics.messages) == (1, 1, 1)
    assert statistics.lost_messages == 0
    assert not statistics.oddities


@pytest.mark.parametrize(
    ("uptime_ms", "first_ms", "age_ms"),
    [
        (100, 0xFFFFFFFF - 899, 1000),
        (5000, 5003, -3),
        (0, 0, 0),
        (0xFFFFFFFF, 0, 0xFFFFFFFF - 2**32),
    ],
)
def test_the_uptime_wraps(
    collector: CollectingProcess, uptime_ms: int, first_ms: int, age_ms: int
) -> None:
    sets = (0, template(256, (22, 4))), (256, struct.pack("!I", first_ms))
    (record,) = collector.decode(packet(*sets, uptime_ms=uptime_ms, time_s=NOW_S), "peer")
    assert record["flowStartMilliseconds"] == NOW_S * 1000 - age_ms


def test_ipfix_with_an_uptime(collector: CollectingProcess) -> None:
    """IPFIX like softflowd's has the start of the system in an option or in the record itself."""
    init = struct.pack("!IQ", 7, NOW_S * 1000 - 5000)
    options = options_template(300, 1, (143, 4), (160, 8))
    body = (2, template(256, (22, 4))), (256, struct.pack("!I", 1000))
    assert "flowStartMilliseconds" not in collector.decode(message(*body), "peer")[0]
    told = (3, options), (300, init)
    (record,) = collector.decode(message(*told, *body, sequence=1, time_s=NOW_S), "peer")
    assert record["flowStartMilliseconds"] == NOW_S * 1000 - 4000
    both = (2, template(257, (160, 8), (21, 4))), (257, init[4:] + struct.pack("!I", 4000))
    (record,) = collector.decode(message(*both, time_s=NOW_S), "other")
    assert record["flowEndMilliseconds"] == NOW_S * 1000 - 1000


def test_field_types_of_vendors(collector: CollectingProcess) -> None:
    fields = [(57641, 16), (57640, 4), (60018, 1), (61000, 2), (1, 8), (10, 2)]
    octets = "grün".encode().ljust(16, b"\0") + struct.pack("!IBHQH", 7, 1, 0xABCD, 5, 3)
    (record,) = collector.decode(packet((0, template(256, *fields)), (256, octets)), "peer")
    assert record == {
        "SRC_PROC_NAME": "grün",
        "SRC_PROC_PID": 7,
        "countersEstimated": True,
        "0/61000": "abcd",
        "octetDeltaCount": 5,
        "ingressInterface": 3,
    }


def test_without_a_table_field_types_are_ianas() -> None:
    collector = CollectingProcess(load_elements())
    sets = (0, template(256, (1, 4), (57641, 2))), (256, b"\0\0\0\5ab")
    (record,) = collector.decode(packet(*sets), "peer")
    assert record == {"octetDeltaCount": 5, "0/57641": "6162"}


def test_options_with_scopes(collector: CollectingProcess) -> None:
    interfaces = options_template9(300, 1, (2, 4), (82, 8), (83, 8)) + b"\0\0"
    others = options_template9(301, 4, (1, 4), (3, 2), (4, 4), (5, 2), (42, 8)) + b"\0\0"
    sets = (
        (1, interfaces),
        (300, struct.pack("!I8s8s", 2, b"eth0", b"uplink")),
        (1, others),
        (301, struct.pack("!IHIHQ", 9, 1, 4, 256, 77)),
    )
    decoded = collector.decode_message(packet(*sets, count=4), "peer")
    assert decoded.flows == []
    assert decoded.options == [
        {"ingressInterface": 2, "interfaceName": "eth0", "interfaceDescription": "uplink"},
        {
            "scopeSystem": 9,
            "lineCardId": 1,
            "scopeCache": 4,
            "templateId": 256,
            "exportedFlowRecordTotalCount": 77,
        },
    ]
    assert collector.statistics.option_records == 2
    assert not collector.statistics.oddities


def test_several_options_templates_in_one_set(collector: CollectingProcess) -> None:
    both = options_template9(300, 1, (1, 4), (40, 4)) + options_template9(301, 0, (41, 4))
    data = (300, bytes(8)), (301, bytes(4))
    decoded = collector.decode_message(packet((1, both), *data, count=4), "peer")
    assert [list(record) for record in decoded.options] == [
        ["scopeSystem", "exportedOctetTotalCount"],
        ["exportedMessageTotalCount"],
    ]


def test_count_is_checked_where_it_can_be(collector: CollectingProcess) -> None:
    known = (0, template(256, (1, 4)) + template(257, (2, 4)))
    collector.decode(packet(known, (256, bytes(8)), count=4), "peer")
    assert not collector.statistics.oddities
    collector.decode(packet((256, bytes(8)), count=7, sequence=1), "peer")
    collector.decode(packet((256, bytes(8)), (999, bytes(8)), count=7, sequence=2), "peer")
    assert collector.statistics.oddities == {Oddity.COUNT: 1}
    assert collector.statistics.lost_messages == 0


def test_gaps_are_counted_in_messages(collector: CollectingProcess) -> None:
    known, data = (0, template(256, (1, 4))), (256, bytes(400))
    for sequence in (0xFFFFFFFE, 0xFFFFFFFF, 0, 3):
        collector.decode(packet(known, data, sequence=sequence), "peer")
    assert (collector.statistics.lost_messages, collector.statistics.lost_records) == (2, 0)
    collector.decode(packet(data, sequence=1), "peer")
    assert collector.statistics.lost_messages == 1, "one of the missing came late"
    collector.decode(packet(data, sequence=500), "peer")
    collector.decode(packet(data, sequence=1), "peer")
    collector.decode(packet(data, sequence=2), "peer")
    assert collector.statistics.lost_messages == 1 + 496, "the exporter began anew"
    collector.decode(packet(data, sequence=77, source=2), "peer")
    assert collector.statistics.lost_messages == 497, "another source id counts by itself"


def test_both_protocols_of_one_peer_do_not_meet(collector: CollectingProcess) -> None:
    collector.decode(packet((0, template(256, (1, 4))), sequence=900), "peer")
    assert collector.decode(message((256, bytes(4))), "peer") == []
    assert collector.statistics.unknown_sets == 1
    assert collector.statistics.lost_records == collector.statistics.lost_messages == 0


@pytest.mark.parametrize(
    ("octets", "kind"),
    [
        (packet() + b"\1", Oddity.BEHIND_SETS),
        (packet((2, b"")), Oddity.RESERVED_SET),
        (packet((255, b"")), Oddity.RESERVED_SET),
        (packet((0, template(255, (1, 4)))), Oddity.TEMPLATE_ID),
        (packet((0, template(256))), Oddity.NO_FIELDS),
        (packet((0, template(256, (1, 4), (2, 4))[:-4])), Oddity.CUT_TEMPLATE),
        (packet((1, struct.pack("!HHHHH", 256, 4, 8, 1, 4))), Oddity.CUT_TEMPLATE),
        (packet((1, struct.pack("!HHH", 256, 0, 0))), Oddity.NO_FIELDS),
        (packet((0, template(256, (1, 4), (2, 4))), (256, b"\1\2\3")), Oddity.SHORT_SET),
    ],
)
def test_garbage_is_counted_by_kind(
    collector: CollectingProcess, octets: bytes, kind: Oddity
) -> None:
    assert collector.decode(octets, "peer") == []
    assert collector.statistics.oddities == {kind: 1}
    assert collector.statistics.errors == 1


def test_what_has_no_header_is_refused(collector: CollectingProcess) -> None:
    with pytest.raises(DecodeError):
        collector.decode(packet()[:19], "peer")
    assert collector.statistics.errors == 1
