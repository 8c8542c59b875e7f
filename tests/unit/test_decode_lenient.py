"""Tests lenient exporters: what can be read is read, and each oddity is counted."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from probe.collector.message_source import collecting_process, summary
from probe.errors import DecodeError
from probe.ipfix.decode import CollectingProcess
from probe.ipfix.oddity import Oddity
from tests.support.ipfix.lenient import SAMPLES, Sample, expected, flow9, v9
from tests.support.ipfix.messages import message, packet, template

KEY = ("sourceIPv4Address", "destinationIPv4Address", "sourceTransportPort",
       "destinationTransportPort", "protocolIdentifier", "octetDeltaCount",
       "packetDeltaCount")  # fmt: skip


@pytest.fixture
def process() -> CollectingProcess:
    return collecting_process(32473)


def key(record: dict[str, Any]) -> tuple[object, ...]:
    return tuple(record[name] for name in KEY)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda one: str(one.name))
def test_all_flows_are_read(process: CollectingProcess, sample: Sample) -> None:
    decoded = [process.decode_message(one, ("192.0.2.1", 2055)) for one in sample.datagrams]
    flows = [record for one in decoded for record in one.flows]
    assert [key(one) for one in flows] == [expected(1), expected(2)]
    for record in flows:
        lasted = record["flowEndMilliseconds"], record["flowStartMilliseconds"]
        assert lasted == (1_767_323_042_000, 1_767_323_041_000)
    assert [record for one in decoded for record in one.options] == list(sample.options)
    counted = process.statistics
    assert set(counted.oddities) == sample.oddities
    assert counted.lost_records == counted.lost_messages == counted.unknown_sets == 0
    assert bool(counted.errors) == any(kind.is_loss for kind in sample.oddities)
    for kind in sample.oddities:
        assert f" {kind.text}" in summary(counted, {})


def test_each_kind_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    process = collecting_process(32473)
    for _ in range(3):
        for sample in SAMPLES:
            for one in sample.datagrams:
                process.decode(one, ("192.0.2.1", 2055))
    told = [record.getMessage() for record in caplog.records]
    kinds = {kind for sample in SAMPLES for kind in sample.oddities}
    told = [text for text in told if "before their Template" not in text]
    assert len(told) == len(kinds)
    for kind in kinds:
        (line,) = [text for text in told if f"192.0.2.1 port 2055: {kind.text}: " in text]
        assert ("this part was not read" in line) == kind.is_loss


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (struct.pack("!HHIIII", 5, 1, 0, 0, 0, 0) + bytes(52), "NetFlow v5"),
        (struct.pack("!HHIIII", 8, 1, 0, 0, 0, 0), "NetFlow v8"),
        (b"\0\0\0\5\0\0\0\1" + bytes(60), "sFlow v5"),
        (b"GET / HTTP/1.1\r\n\r\n", "version 18245"),
        (b"", "no message"),
        (b"\0\x0a\0\x0f" + bytes(11), "no message"),
        (packet()[:19], "no message"),
    ],
)
def test_what_is_none_of_both_is_named(
    octets: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    process = collecting_process(32473)
    for _ in range(3):
        with pytest.raises(DecodeError, match=reason):
            process.decode(octets, ("192.0.2.1", 2055))
    assert process.statistics.errors == 3
    (line,) = [record.getMessage() for record in caplog.records]
    assert reason in line


@pytest.mark.parametrize(
    ("number", "length", "octets", "value"),
    [
        (1, 3, b"\1\2\3", 0x010203), (1, 5, b"\1\2\3\4\5", 0x0102030405),
        (1, 6, b"\1\2\3\4\5\6", 0x010203040506), (1, 7, b"\1\2\3\4\5\6\7", 0x01020304050607),
        (10, 3, b"\1\0\0", 65536), (7, 4, b"\0\0\1\xbb", 443), (434, 3, b"\xff\xff\xfe", -2),
        (434, 1, b"\x80", -128), (320, 4, struct.pack("!f", 1.5), 1.5),
        (320, 8, struct.pack("!d", 1.25), 1.25), (276, 1, b"\1", True),
        (276, 4, b"\0\0\0\1", True), (276, 1, b"\2", False), (152, 4, b"\0\0\1\0", 256),
        (152, 6, b"\0\0\0\0\1\0", 256), (8, 16, bytes(15) + b"\1", "::1"),
        (27, 4, bytes([192, 0, 2, 1]), "192.0.2.1"), (82, 8, b"eth0\0\0\0\0", "eth0"),
        (82, 8, bytes(8), ""), (56, 6, b"\2\0\0\0\0\1", "02:00:00:00:00:01"),
        (515, 32, bytes(31) + b"\5", 5), (515, 2, b"\1\0", 256), (89, 1, b"\x40", 64),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_netflow9", [False, True])
def test_lengths_other_than_usual(
    process: CollectingProcess, number: int, length: int, octets: bytes, value: object,
    is_netflow9: bool,
) -> None:  # fmt: skip
    make, kind = (packet, 0) if is_netflow9 else (message, 2)
    known = kind, template(256, (number, length), (61, 1))
    sent = make(known, (256, octets + b"\1"))
    (record,) = process.decode(sent, "peer")
    assert next(iter(record.values())) == value
    assert record["flowDirection"] == 1


def test_the_same_element_twice(process: CollectingProcess) -> None:
    known = 0, template(256, (1, 4), (1, 2), (1, 1))
    (record,) = process.decode(packet(known, (256, b"\0\0\0\1\0\2\3")), "peer")
    assert record == {"octetDeltaCount": 1, "octetDeltaCount#2": 2, "octetDeltaCount#3": 3}


def test_field_types_of_netflow9_have_no_enterprise(process: CollectingProcess) -> None:
    known = 0, template(256, (0x8001, 4), (1, 4))
    (record,) = process.decode(packet(known, (256, bytes(7) + b"\1")), "peer")
    assert record == {"0/32769": "00000000", "octetDeltaCount": 1}


def test_a_template_that_changes(process: CollectingProcess) -> None:
    for field in (1, 2, 1):
        process.decode(packet((0, template(256, (field, 4)))), "peer")
        (record,) = process.decode(packet((256, b"\0\0\0\1")), "peer")
        assert record == {"octetDeltaCount" if field == 1 else "packetDeltaCount": 1}


def test_a_set_that_is_shorter_than_its_records(process: CollectingProcess) -> None:
    process.decode(packet((0, template(256, (1, 8)))), "peer")
    assert process.decode(packet((256, b"\1\2\3\4")), "peer") == []
    assert process.statistics.oddities[Oddity.SHORT_SET] == 1
    assert process.decode(packet((256, bytes(4))), "peer") == []
    assert process.statistics.oddities[Oddity.SHORT_SET] == 1, "zeros may be padding"


def test_whole_records_before_one_that_is_cut(process: CollectingProcess) -> None:
    known = 2, template(256, (371, 65535), (1, 1))
    records = process.decode(message(known, (256, b"\3abc\1\2de\2\x09xyz")), "peer")
    assert [one["userName"] for one in records] == ["abc", "de"]
    assert process.statistics.oddities[Oddity.CUT_RECORD] == 1
    assert process.statistics.errors == 1


def test_fields_without_octets_cost_nothing(process: CollectingProcess) -> None:
    """A Template has 16 000 fields without octets and one of one octet.

    Records leave the empty fields out.
    """
    known = 0, template(256, *[(82, 0)] * 16_000, (4, 1))
    process.decode(packet(known), "peer")
    records = process.decode(packet((256, bytes(60_000))), "peer")
    assert len(records) == 60_000
    assert records[0] == {"protocolIdentifier": 0}


def test_nothing_is_made_of_what_has_no_octets(process: CollectingProcess) -> None:
    for octets in (packet((0, template(256, (1, 0)))), message((2, template(256, (1, 0))))):
        process.decode(octets, "peer")
        assert process.decode(octets[:0] + v9((256, flow9(1)), count=1), "peer") == []
    assert process.statistics.oddities[Oddity.NO_OCTETS] == 2
