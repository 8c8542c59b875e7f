"""Tests TLV flows for ntopng with a decoder that shares no code with the encoder."""

from __future__ import annotations

import ipaddress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.flow.columns import RECORD_DTYPE
from probe.flow.owner import Container, Owner, OwnerTable, Pod, Process
from probe.flow.rows import Rows
from probe.mapping.tables import Privacy
from probe.ntopng.tlv import TlvEncoder
from tests.support.ntopng.reader import BadMessage, Tlv, read_flows
from tests.support.records import NOW_NS, flow_records, owner_table

Flow = dict[str, Any]
SIDES = ("SRC", "DST")


def encoded(records: Rows, owners: OwnerTable | None = None, **options: Any) -> list[Flow]:
    encoder = TlvEncoder(owners or owner_table(), exporter="192.0.2.9", **options)
    return [flow for part in encoder.encode(records) for flow in read_flows(part.octets)]


def pair(octets: int = 1000, answer: int = 500, ip_version: int = 4) -> Rows:
    """Returns a connection from 10.0.0.0 to 192.0.0.0; the record of the answer comes first."""
    records = flow_records(2, ip_version=ip_version)
    records["flow_id"] = 7
    records["protocol"] = 6
    records["tcp_flags"] = (0x1A, 0x1B)
    records["retransmitted"] = (0, 3)
    records["rtt_us"] = 1250
    back, there = records[:1], records[1:]
    there["biflow_direction"], back["biflow_direction"] = 1, 2
    there["octets"], back["octets"] = octets, answer
    there["packets"], back["packets"] = 10, 5
    for name in ("address", "port", "owner"):
        back[f"source_{name}"] = there[f"destination_{name}"]
        back[f"destination_{name}"] = there[f"source_{name}"]
    return records


def test_a_connection_is_one_flow_with_its_client_as_source() -> None:
    (flow,) = encoded(pair())
    assert flow.pop("SERVER_NW_LATENCY_MS") == pytest.approx(1.25)
    assert {key: value for key, value in flow.items() if "_PROC_" not in key} == {
        "IPV4_SRC_ADDR": "10.0.0.1", "IPV4_DST_ADDR": "192.0.0.1",
        "L4_SRC_PORT": 1025, "L4_DST_PORT": 443, "PROTOCOL": 6, "IP_PROTOCOL_VERSION": 4,
        "IN_BYTES": 1000, "IN_PKTS": 10, "OUT_BYTES": 500, "OUT_PKTS": 5,
        "FIRST_SWITCHED": NOW_NS // 10**9 - 5, "LAST_SWITCHED": NOW_NS // 10**9 - 4,
        "INPUT_SNMP": 2, "OUTPUT_SNMP": 2, "CLIENT_TCP_FLAGS": 0x1B, "SERVER_TCP_FLAGS": 0x1A,
        "RETRANSMITTED_IN_PKTS": 3, "EXPORTER_IPV4_ADDRESS": "192.0.2.9",
        "SRC_CONTAINER_NAME": "web-2", "DST_CONTAINER_NAME": "web-1",
    }  # fmt: skip
    for side, number in zip(SIDES, (2, 1), strict=True):
        assert flow[f"{side}_PROC_PID"] == 1000 + number
        assert flow[f"{side}_PROC_NAME"] == f"worker-{number}"
        assert flow[f"{side}_PROC_UID"] == number
        assert flow[f"{side}_PROC_USER_NAME"] == f"user-{number}"
        assert flow[f"{side}_PROC_CONTAINER_ID"] == f"{number:012x}"
        assert flow[f"{side}_FATHER_PROC_PID"] == number
        assert flow[f"{side}_FATHER_PROC_NAME"] == "init"
        assert f"{side}_PROC_CMDLINE" not in flow


def test_an_answer_alone_is_turned_round() -> None:
    (flow,) = encoded(pair()[:1])
    assert (flow["IPV4_SRC_ADDR"], flow["L4_DST_PORT"]) == ("10.0.0.1", 443)
    assert (flow["IN_BYTES"], flow["OUT_BYTES"], flow["OUT_PKTS"]) == (0, 500, 5)
    assert flow["SRC_PROC_NAME"] == "worker-2"


def test_who_began_is_not_known() -> None:
    """The flow has the direction of its record."""
    records = pair()[1:]
    records["biflow_direction"] = 0
    (flow,) = encoded(records)
    assert (flow["IPV4_SRC_ADDR"], flow["IN_BYTES"], flow["OUT_BYTES"]) == ("10.0.0.1", 1000, 0)


def test_latency_is_on_the_side_that_was_measured() -> None:
    records = pair()
    records["source_netns"][1] = records["destination_netns"][0] = 0  # the client is remote
    (flow,) = encoded(records)
    assert flow["CLIENT_NW_LATENCY_MS"] == pytest.approx(1.25)
    assert "SERVER_NW_LATENCY_MS" not in flow


@pytest.mark.parametrize("octets", [2**32 - 1, 2**32, 2**33 + 5, 10**13 + 7])
def test_what_32_bits_cannot_count_is_several_flows(octets: int) -> None:
    """Each has packets, because ntopng ignores octets without packets."""
    records = pair(octets, 2**32)
    records["packets"] = 10**6, 10**8
    flows = encoded(records)
    assert len(flows) == -(-max(octets, 2**32) // (2**32 - 1))
    assert sum(flow["IN_BYTES"] for flow in flows) == octets
    assert sum(flow["OUT_BYTES"] for flow in flows) == 2**32
    assert sum(flow["IN_PKTS"] for flow in flows) == 10**8
    assert sum(flow["OUT_PKTS"] for flow in flows) == 10**6
    assert all(flow["IN_PKTS"] and flow["OUT_PKTS"] for flow in flows)
    assert sum(flow.get("RETRANSMITTED_IN_PKTS", 0) for flow in flows) == 3


def test_a_large_flow_beside_small_ones() -> None:
    records = flow_records(50)
    records["octets"][20], records["packets"][20] = 3 << 32, 10**7
    flows = encoded(records)
    assert len(flows) == 53
    assert sum(f["IN_BYTES"] + f["OUT_BYTES"] for f in flows) == int(records["octets"].sum())


def test_names_of_any_script_and_of_none() -> None:
    table = OwnerTable()
    table.add(
        Owner(
            Process(5, "数据库\x00\n", command_line="ü" * 4000),
            container=Container(name="café"),
            pod=Pod("web-0", "größe"),
        )
    )
    records = pair()
    records["source_owner"], records["destination_owner"] = (0, 1), (1, 0)
    (flow,) = encoded(records, table, privacy=Privacy(command_lines=True))
    assert flow["SRC_PROC_NAME"] == "数据库\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"
    assert flow["SRC_CONTAINER_NAME"] == "café"
    assert (flow["SRC_POD_NAME"], flow["SRC_POD_NAMESPACE"]) == ("web-0", "größe")
    assert flow["SRC_PROC_CMDLINE"] == "ü" * 512
    assert not [key for key in flow if key.startswith("DST_")]


def test_what_must_not_leave_the_host() -> None:
    (flow,) = encoded(pair(), privacy=Privacy(users=False, names=False))
    assert not [key for key in flow if "USER" in key or "UID" in key or "PROC_NAME" in key]
    assert flow["SRC_PROC_PID"] == 1002


def test_a_payload_is_as_full_as_it_may_be() -> None:
    records = flow_records(3000)
    encoder = TlvEncoder(owner_table(), max_payload=4096)
    payloads = list(encoder.encode(records))
    sizes = [len(part.octets) for part in payloads]
    assert max(sizes) <= 4096
    assert sorted(sizes)[len(sizes) // 2] > 4096 - 800
    assert [len(Tlv(part.octets).records()) for part in payloads] == [p.flows for p in payloads]
    assert sum(part.flows for part in payloads) == 3000
    assert sum(part.packets for part in payloads) == int(records["packets"].sum())
    assert sum(part.flow_octets for part in payloads) == int(records["octets"].sum())
    assert {len(part.octets) <= 65535 for part in TlvEncoder(owner_table()).encode(records)} == {
        True
    }


def test_an_index_that_is_given_anew() -> None:
    table = owner_table(1)
    encoder = TlvEncoder(table)
    records = pair()
    records["source_owner"] = records["destination_owner"] = 1
    assert [f for part in encoder.encode(records) for f in read_flows(part.octets)]
    table.replace(1, Owner(Process(9, "other")))
    encoder.forget([1, 400])
    (part,) = encoder.encode(records)
    assert {read_flows(part.octets)[0][f"{side}_PROC_NAME"] for side in SIDES} == {"other"}


def test_no_records_are_no_messages() -> None:
    assert encoded(np.zeros(0, RECORD_DTYPE)) == []


def test_the_reader_refuses_what_is_cut_off() -> None:
    (part,) = TlvEncoder(owner_table()).encode(pair())
    for end in (0, *range(3, len(part.octets))):
        with pytest.raises(BadMessage):
            Tlv(part.octets[:end]).records()


ADDRESS = {4: st.binary(min_size=4, max_size=4), 6: st.binary(min_size=16, max_size=16)}


@st.composite
def random_records(draw: st.DrawFn) -> Rows:
    records = np.zeros(draw(st.integers(1, 12)), RECORD_DTYPE)
    for number, row in enumerate(records):
        version = row["ip_version"] = draw(st.sampled_from((4, 6)))
        row["flow_id"] = number + 1
        row["protocol"] = draw(st.sampled_from((6, 17, 1)))
        row["biflow_direction"] = draw(st.integers(0, 1))
        for side in ("source", "destination"):
            address = draw(ADDRESS[version])
            row[f"{side}_address"][: len(address)] = list(address)
            row[f"{side}_port"] = draw(st.integers(0, 65535))
            row[f"{side}_owner"] = draw(st.integers(0, 4))
        for name in ("octets", "packets", "rtt_us", "retransmitted", "tcp_flags"):
            most = {"octets": 2**36, "packets": 2**30, "tcp_flags": 255}.get(name, 2**32 - 1)
            row[name] = draw(st.integers(0, most))
        row["first_ns"] = draw(st.integers(0, 2**32 * 10**9 - 1))
        row["last_ns"] = draw(st.integers(int(row["first_ns"]), 2**32 * 10**9 - 1))
    return records


def address_of(row: Any, side: str) -> str:
    octets = row[f"{side}_address"].tobytes()
    return str(ipaddress.ip_address(octets[:4] if row["ip_version"] == 4 else octets))


def key_of(flow: Flow) -> tuple[Any, ...]:
    version = flow["IP_PROTOCOL_VERSION"]
    ends = (str(ipaddress.ip_address(flow[f"IPV{version}_{s}_ADDR"])) for s in SIDES)
    return (*ends, flow["L4_SRC_PORT"], flow["L4_DST_PORT"], flow["PROTOCOL"],
            flow["FIRST_SWITCHED"], flow["LAST_SWITCHED"])  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(random_records())
def test_random_records_come_back(records: Rows) -> None:
    wanted: dict[tuple[Any, ...], list[int]] = {}
    for row in records:
        key = (
            address_of(row, "source"), address_of(row, "destination"), row["source_port"],
            row["destination_port"], row["protocol"], row["first_ns"] // 10**9,
            row["last_ns"] // 10**9,
        )  # fmt: skip
        sums = wanted.setdefault(key, [0, 0, 0])
        for place, name in enumerate(("octets", "packets", "retransmitted")):
            sums[place] += int(row[name])
    found: dict[tuple[Any, ...], list[int]] = {}
    for flow in encoded(records):
        sums = found.setdefault(key_of(flow), [0, 0, 0])
        for place, name in enumerate(("IN_BYTES", "IN_PKTS", "RETRANSMITTED_IN_PKTS")):
            sums[place] += flow.get(name, 0)
        assert flow["OUT_BYTES"] == flow["OUT_PKTS"] == 0
    assert found == wanted
