"""Tests that the records of a flow's directions become one record, whichever of them exist."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from probe.flow.biflow import pair_directions
from probe.flow.columns import BIFLOW_DTYPE, RECORD_DTYPE
from probe.flow.rows import Rows
from tests.support.records import flow_records

CLIENT, SERVER = (10, 0, 0, 1), (10, 0, 0, 2)
#: Every value that belongs to a side is distinct, so that a mix-up shows.
SIDES: dict[str, tuple[Any, Any]] = {
    "address": (CLIENT, SERVER),
    "port": (40000, 443),
    "owner": (7, 8),
    "owner_source": (1, 2),
    "netns": (101, 102),
    "netns_inode": (1001, 1002),
}


def directions(flow: int = 1, both_local: bool = True) -> Rows:
    """Returns the records of both directions. Without ``both_local`` the server is remote."""
    records = np.zeros(2, RECORD_DTYPE)
    records["flow_id"] = flow
    records["ip_version"], records["protocol"] = 4, 6
    records["first_ns"], records["last_ns"] = (1_000, 1_000), (5_000, 5_000)
    records["octets"], records["packets"] = (300, 9000), (3, 9)
    records["retransmitted"], records["lost"] = (1, 4), (2, 5)
    records["tcp_flags"], records["dscp"] = (0x02, 0x1B), (10, 20)
    records["biflow_direction"] = (1, 2)
    records["flow_direction"] = (1, 1 if both_local else 0)
    records["egress_interface"] = (11, 12 if both_local else 0)
    records["ingress_interface"] = (0, 0 if both_local else 11)
    for name, (client, server) in SIDES.items():
        local = both_local or name in ("address", "port")
        _put(records, f"source_{name}", client, server if local else 0)
        _put(records, f"destination_{name}", server if local else 0, client)
    return records


def _put(records: Rows, name: str, first: Any, second: Any) -> None:
    for row, value in enumerate((first, second)):
        if records[name].ndim == 2:
            records[name][row, : len(value)] = value
        else:
            records[name][row] = value


def assert_client_is_source(biflow: Rows, both_local: bool = True) -> None:
    for name, (client, server) in SIDES.items():
        local = both_local or name in ("address", "port")
        for side, value in (("source", client), ("destination", server if local else 0)):
            found = biflow[f"{side}_{name}"]
            plain = tuple(found[: len(value)].tolist()) if isinstance(value, tuple) else int(found)
            assert plain == value, f"{side}_{name}"


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_two_directions_become_one_record(order: list[int]) -> None:
    (biflow,) = pair_directions(directions()[order])
    assert_client_is_source(biflow)
    assert (biflow["octets"], biflow["packets"]) == (300, 3)
    assert (biflow["reverse_octets"], biflow["reverse_packets"]) == (9000, 9)
    assert (biflow["retransmitted"], biflow["reverse_retransmitted"]) == (1, 4)
    assert (biflow["lost"], biflow["reverse_lost"]) == (2, 5)
    assert (biflow["tcp_flags"], biflow["reverse_tcp_flags"]) == (0x02, 0x1B)
    assert (biflow["dscp"], biflow["reverse_dscp"]) == (10, 20)
    assert (biflow["biflow_direction"], biflow["flow_direction"]) == (1, 1)
    assert (biflow["egress_interface"], biflow["ingress_interface"]) == (11, 12)


def test_times_are_those_of_each_direction() -> None:
    records = directions()
    records["first_ns"], records["last_ns"] = (1_000, 2_000), (5_000, 4_000)
    (biflow,) = pair_directions(records)
    assert (biflow["first_ns"], biflow["last_ns"]) == (1_000, 5_000)
    assert (biflow["reverse_first_ns"], biflow["reverse_last_ns"]) == (2_000, 4_000)


def test_the_initiator_alone() -> None:
    """The other direction has 0 packets and the times of the first one."""
    (biflow,) = pair_directions(directions()[:1])
    assert_client_is_source(biflow)
    assert (biflow["packets"], biflow["reverse_packets"], biflow["reverse_octets"]) == (3, 0, 0)
    assert (biflow["reverse_tcp_flags"], biflow["reverse_dscp"]) == (0, 0)
    assert (biflow["reverse_first_ns"], biflow["reverse_last_ns"]) == (1_000, 5_000)


@pytest.mark.parametrize("both_local", [True, False])
def test_the_responder_alone_is_turned_round(both_local: bool) -> None:
    (biflow,) = pair_directions(directions(both_local=both_local)[1:])
    assert_client_is_source(biflow, both_local)
    assert (biflow["packets"], biflow["octets"], biflow["tcp_flags"]) == (0, 0, 0)
    assert (biflow["reverse_packets"], biflow["reverse_octets"]) == (9, 9000)
    assert (biflow["reverse_tcp_flags"], biflow["reverse_dscp"]) == (0x1B, 20)
    assert (biflow["reverse_retransmitted"], biflow["reverse_lost"]) == (4, 5)
    assert (biflow["first_ns"], biflow["last_ns"]) == (1_000, 5_000)
    assert (biflow["reverse_first_ns"], biflow["reverse_last_ns"]) == (1_000, 5_000)
    assert (biflow["biflow_direction"], biflow["flow_direction"]) == (1, 1)
    interfaces = (0, 12) if both_local else (11, 0)
    assert (biflow["egress_interface"], biflow["ingress_interface"]) == interfaces


def test_a_remote_initiator_makes_an_ingress_flow() -> None:
    """A local server answers a remote client. The batch lacks the record of the request."""
    records = directions()[1:]
    for name in ("owner", "owner_source", "netns", "netns_inode"):
        records[f"destination_{name}"] = 0
    (biflow,) = pair_directions(records)
    assert (biflow["flow_direction"], biflow["source_owner"], biflow["destination_owner"]) == (
        (0, 0, 8)
    )  # fmt: skip
    assert tuple(biflow["source_address"][:4]) == CLIENT


def test_an_end_that_only_one_record_knows() -> None:
    records = directions()
    for name in ("owner", "owner_source", "netns", "netns_inode"):
        records[f"destination_{name}"][0] = 0
    (biflow,) = pair_directions(records)
    assert_client_is_source(biflow)


def test_an_unknown_initiator() -> None:
    records = directions()
    records["biflow_direction"] = 0
    (biflow,) = pair_directions(records)
    assert biflow["biflow_direction"] == 0
    assert (biflow["packets"], biflow["reverse_packets"]) == (3, 9)
    (lone,) = pair_directions(records[1:])
    assert (lone["biflow_direction"], lone["packets"], lone["reverse_packets"]) == (0, 9, 0)
    assert tuple(lone["source_address"][:4]) == SERVER


@pytest.mark.parametrize("which", [0, 1])
def test_a_translation_is_that_of_the_initiators_direction(which: int) -> None:
    records = directions()
    keys = ((198, 51, 100, 1), 50000), ((198, 51, 100, 2), 8443)
    source, destination = keys if which == 0 else keys[::-1]
    records["translated"][which] = 1
    for side, (address, port) in (("source", source), ("destination", destination)):
        records[f"nat_{side}_address"][which] = address
        records[f"nat_{side}_port"][which] = port
    for rows in (records, records[which : which + 1]):
        (biflow,) = pair_directions(rows)
        assert biflow["translated"] == 1
        assert tuple(biflow["nat_source_address"]) == keys[0][0]
        assert tuple(biflow["nat_destination_address"]) == keys[1][0]
        assert (biflow["nat_source_port"], biflow["nat_destination_port"]) == (50000, 8443)


def test_an_estimate_in_either_direction_marks_the_whole() -> None:
    records = directions()
    records["estimated"] = (0, 1)
    assert pair_directions(records)["estimated"].tolist() == [1]


def test_many_flows_in_any_order() -> None:
    """Nothing is lost or counted twice, and each flow keeps its own values."""
    random = np.random.default_rng(5)
    parts = [directions(flow)[: 1 + flow % 2] for flow in range(1, 1000)]
    records = np.concatenate(parts)
    records["octets"] = np.arange(len(records)) + 1
    biflows = pair_directions(random.permutation(records))
    assert biflows["flow_id"].tolist() == list(range(1, 1000))
    assert int(biflows["octets"].sum() + biflows["reverse_octets"].sum()) == (
        int(records["octets"].sum())
    )
    forward = records[records["biflow_direction"] == 1]
    assert (biflows["octets"] == forward["octets"]).all()


def test_a_direction_twice_is_told_twice() -> None:
    records = np.concatenate([directions(), directions()[:1], directions(2)])
    biflows = pair_directions(records)
    assert biflows["flow_id"].tolist() == [1, 1, 2]
    assert int(biflows["packets"].sum()) == 9
    assert int(biflows["reverse_packets"].sum()) == 18


def test_three_of_an_unknown_initiator() -> None:
    records = np.concatenate([directions(), directions()[:1]])
    records["biflow_direction"] = 0
    biflows = pair_directions(records)
    assert (biflows["packets"] + biflows["reverse_packets"]).tolist() == [12, 3]


def test_nothing_in_nothing_out() -> None:
    biflows = pair_directions(np.zeros(0, RECORD_DTYPE))
    assert len(biflows) == 0
    assert biflows.dtype == BIFLOW_DTYPE


def test_the_records_given_are_left_alone() -> None:
    records = flow_records(100)
    before = records.copy()
    pair_directions(records)
    assert (records == before).all()
