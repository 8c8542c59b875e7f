"""Tests the Collecting Process on messages that are valid, foreign, late or garbage."""

from __future__ import annotations

import struct

import pytest

from probe.errors import DecodeError
from probe.ipfix.decode import CollectingProcess
from probe.ipfix.oddity import Oddity
from probe.mapping import load_elements
from tests.support.ipfix.messages import message, options_template, template


@pytest.fixture
def collector() -> CollectingProcess:
    return CollectingProcess(load_elements())


def test_values_by_type(collector: CollectingProcess) -> None:
    fields = [(8, 4), (27, 16), (56, 6), (152, 8), (154, 8), (156, 8), (1, 3), (371, 65535)]
    octets = bytes([192, 0, 2, 1]) + bytes.fromhex("20010db8" + "00" * 11 + "01")
    octets += bytes.fromhex("0200c0ffee01") + struct.pack("!Q", 1700000000123)
    octets += struct.pack("!II", 2_208_988_800 + 1700000000, 1 << 31) * 2
    octets += b"\x01\x02\x03" + b"\x05gr\xc3\xb6n"
    (record,) = collector.decode(message((2, template(256, *fields)), (256, octets)), "peer")
    assert record == {
        "sourceIPv4Address": "192.0.2.1",
        "sourceIPv6Address": "2001:db8::1",
        "sourceMacAddress": "02:00:c0:ff:ee:01",
        "flowStartMilliseconds": 1700000000123,
        "flowStartMicroseconds": 1700000000_500000,
        "flowStartNanoseconds": 1700000000_500000000,
        "octetDeltaCount": 0x010203,
        "userName": "grön",
    }


def test_unknown_reverse_and_long_fields(collector: CollectingProcess) -> None:
    fields = [(371, 65535), (99, 2, 64999), (1, 8, 29305)]
    octets = b"\xff\x01\x2c" + b"y" * 300 + b"\xab\xcd" + struct.pack("!Q", 5)
    (record,) = collector.decode(message((2, template(300, *fields)), (300, octets)), "peer")
    assert record == {"userName": "y" * 300, "64999/99": "abcd", "reverseOctetDeltaCount": 5}


def test_padding_is_skipped(collector: CollectingProcess) -> None:
    sets = (2, template(256, (1, 8)) + b"\0\0\0\0"), (256, bytes(8) + b"\0\0\0")
    assert len(collector.decode(message(*sets), "peer")) == 1


@pytest.mark.parametrize(
    "sets",
    [
        [(256, bytes(8) + b"\0\0\1")],
        [(256, b"\1")],
        [(257, b"\3abc" + bytes(8) + b"\0\0\2")],
        [(2, template(260, (1, 8)) + b"\0\0\1")],
        [(3, options_template(260, 1, (1, 8)) + b"\0\0\0\0\0\0\1")],
    ],
)
def test_octets_that_are_no_padding_are_noted(
    collector: CollectingProcess, sets: list[tuple[int, bytes]]
) -> None:
    """RFC 7011 section 3.3.1: padding is zero."""
    known = (2, template(256, (1, 8)) + template(257, (371, 65535), (1, 8)))
    collector.decode(message(known), "peer")
    collector.decode(message(*sets), "peer")
    assert len(collector.statistics.oddities) == 1


def test_type_records_may_come_after_the_template(collector: CollectingProcess) -> None:
    data = 256, struct.pack("!I", 77)
    own = message((2, template(256, (9, 4, 64999))), data)
    assert collector.decode(own, "peer") == [{"64999/9": "0000004d"}]
    options = options_template(300, 2, (346, 4), (303, 2), (339, 1), (341, 65535))
    type_record = struct.pack("!IHB", 64999, 9, 3) + b"\x05depth"
    collector.decode(message((3, options), (300, type_record), sequence=1), "peer")
    assert collector.decode(message(data, sequence=2), "peer") == [{"depth": 77}]
    assert collector.statistics.lost_records == 0
    assert collector.decode(message(data), "another") == []
    assert collector.statistics.unknown_sets == 1


def test_gaps_in_the_sequence_are_counted(collector: CollectingProcess) -> None:
    data = 256, bytes(16)
    collector.decode(message((2, template(256, (1, 8)))), "peer")
    for sequence in (0, 2, 10, 12):
        collector.decode(message(data, sequence=sequence), "peer")
    assert collector.statistics.lost_records == 6
    collector.decode(message(data, sequence=6), "peer")
    assert collector.statistics.lost_records == 4, "one of the missing came late"
    collector.decode(message(data, sequence=14), "peer")
    collector.decode(message(data, sequence=0), "peer")
    collector.decode(message(data, sequence=2), "peer")
    assert collector.statistics.lost_records == 4, "the exporter began anew"
    collector.decode(message(data, sequence=900, odid=2), "peer")
    assert collector.statistics.lost_records == 4, "another domain counts by itself"


def test_a_template_may_be_redefined(collector: CollectingProcess) -> None:
    collector.decode(message((2, template(256, (1, 8)))), "peer")
    collector.decode(message((2, template(256, (2, 8)))), "peer")
    assert collector.decode(message((256, bytes(8))), "peer") == [{"packetDeltaCount": 0}]
    assert collector.statistics.template_errors == 0, "over UDP that is normal (section 8.4)"


@pytest.mark.parametrize("datagram", [b"", b"\x00\x0a", message(version=5), message()[:15]])
def test_what_has_no_header_is_refused(collector: CollectingProcess, datagram: bytes) -> None:
    with pytest.raises(DecodeError):
        collector.decode(datagram, "peer")
    assert collector.statistics.errors == 1


def with_length(length: int, rest: bytes) -> bytes:
    return message()[:2] + struct.pack("!H", length) + message()[4:] + rest


@pytest.mark.parametrize(
    ("datagram", "kind"),
    [
        (with_length(17, b"x"), Oddity.BEHIND_SETS),
        (message((4, b"")), Oddity.RESERVED_SET),
        (message((2, struct.pack("!HHHH", 256, 2, 1, 8))), Oddity.CUT_TEMPLATE),
        (message((2, template(255, (1, 8)))), Oddity.TEMPLATE_ID),
        (message((2, template(2, (1, 8)))), Oddity.TEMPLATE_ID),
        (message((3, struct.pack("!HH", 256, 1))), Oddity.CUT_TEMPLATE),
        (message((0, b"")), Oddity.RESERVED_SET),
        (message((1, template(256, (1, 8)))), Oddity.RESERVED_SET),
        (with_length(20, b"\x00\x02\x00\x03"), Oddity.SET_LENGTH),
        (with_length(20, b"\x00\x02\x00\x05"), Oddity.SET_LENGTH),
        (message((2, template(256, (371, 65535))), (256, b"\x05abc")), Oddity.CUT_RECORD),
        (message((2, template(256, (371, 65535), (1, 8))), (256, b"\x07abcdefg\x00")),
         Oddity.CUT_RECORD),
    ],
)  # fmt: skip
def test_garbage_is_counted_by_kind(
    collector: CollectingProcess, datagram: bytes, kind: Oddity
) -> None:
    assert collector.decode(datagram, "peer") == []
    assert collector.statistics.oddities == {kind: 1}
    assert collector.statistics.errors == 1
