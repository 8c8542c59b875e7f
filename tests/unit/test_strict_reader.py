"""Tests the strict reader: whole streams, odd but legal messages, captures and files."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from tests.support.ipfix.messages import message, options_template, options_template9, template
from tests.support.reader import Severity, StrictReader
from tests.support.reader.capture import read_capture
from tests.support.reader.streams import (
    INTERFACES,
    NOW_S,
    PEN,
    TYPE_FIELDS,
    TYPES,
    UPTIME_MS,
    Stream,
    Stream9,
    flow,
    flow9,
    padded,
    type_record,
)


def broken(reader: StrictReader) -> set[str]:
    return {finding.rule.name for finding in reader.finish()}


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_whole_stream_of_ipfix(transport: str) -> None:
    reader = StrictReader()
    stream = Stream(reader, transport)
    stream.begin()
    stream.flows(flow(), flow(name=b"x" * 200))
    stream.begin()
    stream.flows(flow(truth=2))
    assert broken(reader) == set()
    assert (reader.totals["flows"], reader.totals["options"]) == (3, 2)
    assert (reader.totals["templates"], reader.totals["repeated templates"]) == (4, 2)
    assert reader.flows()[0] == {
        "sourceIPv4Address": "192.0.2.1", "destinationIPv4Address": "192.0.2.2",
        "sourceTransportPort": 1024, "destinationTransportPort": 53, "protocolIdentifier": 17,
        "ipVersion": 4, "flowStartMilliseconds": NOW_S * 1000 - 3000,
        "flowEndMilliseconds": NOW_S * 1000 - 1000, "octetDeltaCount": 400, "packetDeltaCount": 4,
        "dataRecordsReliability": True, "interfaceName": "eth0", f"{PEN}/1": "curl",
    }  # fmt: skip


def test_a_whole_stream_of_netflow9() -> None:
    reader = StrictReader()
    stream = Stream9(reader)
    stream.begin()
    stream.flows(flow9(), flow9())
    stream.send((1, padded(options_template9(INTERFACES, 1, (2, 4), (82, 4)))), count=1)
    stream.send((INTERFACES, b"\0\0\0\7eth0"), count=1)
    assert broken(reader) == set()
    assert reader.flows()[0]["flowEndSysUpTime"] == UPTIME_MS - 1000
    assert reader.options() == [{"scope/2": 7, "interfaceName": "eth0"}]


def test_a_connection_in_any_pieces() -> None:
    octets = b"".join([
        message((3, options_template(TYPES, 2, *TYPE_FIELDS)), time_s=NOW_S),
        message((TYPES, type_record() * 3), time_s=NOW_S),
    ])  # fmt: skip
    reader = StrictReader()
    for octet in octets:
        reader.feed(bytes((octet,)), transport="tcp")
    assert broken(reader) == set()
    assert (reader.totals["messages"], len(reader.records)) == (2, 3)


def test_times_and_numbers_of_all_types() -> None:
    reader = StrictReader()
    stream = Stream(reader)
    stream.template(
        (311, 8), (311, 4), (156, 8), (157, 8), (150, 4), (151, 4), (56, 6), (27, 16), (95, 3)
    )
    seconds = NOW_S - 1
    values = struct.pack("!dfIIIIII", 0.5, 0.25, seconds + 2208988800, 2**31, seconds + 2208988800,
                         2**31, seconds, seconds)  # fmt: skip
    record = values + bytes.fromhex("020000000001") + bytes(15) + b"\1" + b"abc"
    stream.send((400, record), records=1)
    assert broken(reader) == {"template.twice"}
    (found,) = reader.flows()
    assert found["samplingProbability"] == 0.5
    assert found["flowStartNanoseconds"] == seconds * 1000 + 500
    assert found["sourceMacAddress"] == "02:00:00:00:00:01"
    assert (found["sourceIPv6Address"], found["applicationId"]) == ("::1", b"abc".hex())


# --- what is legal though it looks odd ------------------------------------------------------------


def test_sequences_go_round() -> None:
    reader = StrictReader()
    stream = Stream(reader, sequence=2**32 - 1)
    stream.template((8, 4))
    stream.send((400, bytes(4)), records=1)
    stream.sequence = 0
    stream.send((400, bytes(4)), records=1)
    assert broken(reader) == set()


def test_what_is_lost_is_told_once() -> None:
    """A Data Set without a Template leaves the next sequence number open."""
    reader = StrictReader()
    stream = Stream(reader)
    stream.flows(flow())
    stream.template((8, 4))
    stream.sequence = 77
    stream.send((400, bytes(4)), records=1)
    stream.send((400, bytes(4)), records=1)
    assert [finding.rule.name for finding in reader.finish()] == [
        "data.no-template", "message.sequence",
    ]  # fmt: skip


def test_a_template_may_change_after_its_lifetime() -> None:
    reader = StrictReader()
    stream = Stream(reader)
    stream.template((8, 4))
    stream.send((2, template(400, (12, 4))), time_s=NOW_S + 1800)
    assert broken(reader) == set()


def test_a_template_may_change_after_its_withdrawal() -> None:
    reader = StrictReader()
    stream = Stream(reader, "tcp")
    stream.template((8, 4))
    stream.send((2, template(400)))
    stream.template((12, 4))
    assert broken(reader) == set()


def test_sessions_and_domains_are_apart() -> None:
    reader = StrictReader()
    for peer in ("one", "two"):
        for domain in (1, 2):
            octets = message((2, template(400, (8, 4))), odid=domain, time_s=NOW_S)
            reader.feed(octets, NOW_S, peer)
            reader.feed(message((400, bytes(8)), odid=domain, time_s=NOW_S), NOW_S, peer)
    assert broken(reader) == set()
    assert reader.totals["flows"] == 8


def test_what_is_meant_can_be_left_out() -> None:
    reader = StrictReader()
    stream = Stream(reader)
    stream.template((8, 3), (6, 2))
    assert len(reader.broken()) == 2
    assert reader.broken(Severity.ADVICE, but=["advice.tcp-flags"]) == []
    (shown,) = reader.broken(Severity.ERROR)
    assert shown.startswith("template.length: Template 400: sourceIPv4Address is ipv4Address and")


# --- captures and files ---------------------------------------------------------------------------


def test_a_capture(tmp_path: Path) -> None:
    """Only the given port is read. Times are those of the capture, and fragments are reported."""
    octets = message((2, template(400, (8, 4))), time_s=NOW_S)
    whole = Ether() / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=999, dport=4739) / octets
    other = Ether() / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=999, dport=53) / b"no"
    part = Ether() / IP(src="192.0.2.1", dst="192.0.2.2", flags="MF", proto=17) / bytes(1400)
    packets = [whole, other, part]
    for one in packets:
        one.time = NOW_S
    wrpcap(str(tmp_path / "some.pcap"), packets)
    reader = StrictReader()
    read_capture(reader, tmp_path / "some.pcap", 4739)
    assert broken(reader) == {"message.fragment"}
    assert reader.totals["messages"] == reader.totals["templates"] == 1


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "some.ipfix"
    file.write_bytes(
        message((2, template(400, (8, 4))), time_s=NOW_S)
        + message((400, bytes(4)), time_s=NOW_S)
        + message((400, bytes(4)), sequence=1, time_s=NOW_S)
    )
    reader = StrictReader()
    reader.read_file(file)
    assert broken(reader) == set()
    assert reader.totals["flows"] == 2
