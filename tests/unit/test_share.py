"""Tests flows split over a group: evenly, stably, and with both directions together."""

from __future__ import annotations

import numpy as np
import pytest

from probe.export.share import ShareGroup, flow_hash
from probe.flow.codes import EndReason
from probe.flow.columns import RECORD_DTYPE
from probe.flow.rows import Rows
from tests.support.records import flow_records

NAMES = [f"ipfix://collector-{number}.example:4739" for number in range(4)]


def reverse(records: Rows) -> Rows:
    """Returns the other direction of the same flows."""
    back = records.copy()
    for column in ("address", "port", "owner"):
        back[f"source_{column}"] = records[f"destination_{column}"]
        back[f"destination_{column}"] = records[f"source_{column}"]
    return back


def members(shares: list[Rows]) -> dict[int, int]:
    """Returns {flow id: number of the member that got the flow}."""
    return {int(flow): number for number, share in enumerate(shares) for flow in share["flow_id"]}


@pytest.mark.parametrize("kind", ["hash", "round-robin"])
@pytest.mark.parametrize("ip_version", [4, 6])
def test_both_directions_go_to_the_same_member(kind: str, ip_version: int) -> None:
    records = flow_records(20_000, ip_version=ip_version)
    group = ShareGroup(kind, NAMES)
    there = group.split(records, [True] * 4)
    assert members(there) == members(group.split(reverse(records), [True] * 4))
    assert sum(map(len, there)) == 20_000
    assert all(4700 < len(share) < 5300 for share in there)


@pytest.mark.parametrize("kind", ["hash", "round-robin"])
def test_every_record_arrives_once_unchanged_and_in_order(kind: str) -> None:
    records = flow_records(10_000)
    shares = ShareGroup(kind, NAMES[:3]).split(records, [True] * 3)
    for share in shares:
        assert share.dtype == RECORD_DTYPE
        rows = share["flow_id"].astype(np.int64) - 1
        assert (np.diff(rows) > 0).all()
        assert share.tobytes() == records[rows].tobytes()
    together = np.sort(np.concatenate([share["flow_id"] for share in shares]))
    assert together.tolist() == records["flow_id"].tolist()


def test_a_member_that_is_down_moves_its_own_flows_only() -> None:
    records = flow_records(20_000)
    group = ShareGroup("hash", NAMES)
    before = members(group.split(records, [True] * 4))
    after = members(group.split(records, [True, False, True, True]))
    moved = {flow for flow in before if before[flow] != after[flow]}
    assert moved == {flow for flow, member in before.items() if member == 1}
    heirs = [sum(after[flow] == member for flow in moved) for member in (0, 2, 3)]
    assert all(len(moved) / 3 * 0.85 < count < len(moved) / 3 * 1.15 for count in heirs)


def test_flows_stay_after_a_restart_and_for_names_in_another_order() -> None:
    records = flow_records(5_000)
    before = members(ShareGroup("hash", NAMES).split(records, [True] * 4))
    records["flow_id"] += 1 << 40
    again = members(ShareGroup("hash", NAMES[::-1]).split(records, [True] * 4))
    assert {flow - (1 << 40): 3 - member for flow, member in again.items()} == before


def test_the_hash_is_the_same_on_every_machine_and_in_every_release() -> None:
    """Otherwise the two directions of a flow could go from two probes to different collectors."""
    words = [f"{word:016x}" for word in flow_hash(flow_records(2)).tolist()]
    assert words == [
        "5af48d15e0797d01",
        "849a1a6c2126e0a0",
    ]


def test_every_part_of_the_flow_key_counts() -> None:
    one = flow_records(1)
    hashes = {int(flow_hash(one)[0])}
    for column in ("source_port", "destination_port", "protocol"):
        other = one.copy()
        other[column] += 1
        hashes.add(int(flow_hash(other)[0]))
    for column in ("source_address", "destination_address"):
        for octet in range(16):
            other = one.copy()
            other[column][0, octet] ^= 1
            hashes.add(int(flow_hash(other)[0]))
    assert len(hashes) == 36


@pytest.mark.parametrize("kind", ["hash", "round-robin"])
def test_all_down_is_as_all_up(kind: str) -> None:
    records = flow_records(1000)
    group = ShareGroup(kind, NAMES)
    assert members(group.split(records, [False] * 4)) == members(group.split(records, [True] * 4))


@pytest.mark.parametrize("kind", ["hash", "round-robin"])
def test_one_member_left_takes_all_without_a_copy(kind: str) -> None:
    records = flow_records(1000)
    shares = ShareGroup(kind, NAMES).split(records, [False, False, True, False])
    assert [len(share) for share in shares] == [0, 0, 1000, 0]
    assert shares[2] is records


def test_nothing_to_share() -> None:
    shares = ShareGroup("hash", NAMES).split(flow_records(0), [True] * 4)
    assert [len(share) for share in shares] == [0, 0, 0, 0]


def test_numbers_of_flows_as_the_kernel_gives_them() -> None:
    """A flow id is made of the time and the CPU, so one CPU always gives the same low octet."""
    records = flow_records(9_000)
    records["flow_id"] = (np.arange(9_000, dtype=np.uint64) * 1_000_000 << 8) | (1 << 63)
    shares = ShareGroup("round-robin", NAMES[:3]).split(records, [True] * 3)
    assert all(2700 < len(share) < 3300 for share in shares)


def test_both_directions_of_a_translated_flow_go_together() -> None:
    """10.0.r.r asks 192.0.0.0, which the translator makes 172.0.r.r.

    Each end reports its own view.
    """
    names = [name for name in RECORD_DTYPE.names or () if not name.startswith(("nat_", "transl"))]
    dtype = np.dtype(
        [
            *((name, RECORD_DTYPE[name]) for name in names),
            ("nat_source_address", "u1", 4),
            ("nat_destination_address", "u1", 4),
            ("nat_source_port", "u2"),
            ("nat_destination_port", "u2"),
            ("translated", "u1"),
        ]
    )
    there = np.zeros(2000, dtype)
    for name in names:
        there[name] = flow_records(2000)[name]
    there["nat_source_address"] = there["source_address"][:, :4]
    there["nat_source_port"] = there["source_port"]
    there["nat_destination_address"] = there["source_address"][:, :4]
    there["nat_destination_address"][:, 0] = 172
    there["nat_destination_port"] = 8443
    there["translated"] = np.arange(2000) % 2
    back = reverse(there)
    rows = np.flatnonzero(there["translated"])
    back["source_address"][rows, :4] = there["nat_destination_address"][rows]
    back["source_port"][rows] = 8443
    back["nat_source_address"] = there["destination_address"][:, :4]
    back["nat_source_port"] = there["destination_port"]
    back["nat_destination_address"] = there["source_address"][:, :4]
    back["nat_destination_port"] = there["source_port"]
    assert flow_hash(there).tolist() == flow_hash(back).tolist()
    group = ShareGroup("hash", NAMES)
    assert members(group.split(there, [True] * 4)) == members(group.split(back, [True] * 4))


def outgoing(count: int) -> tuple[Rows, Rows]:
    """Returns both directions of clients' flows behind this host's NAT, as one socket sees them.

    Requests leave with another source. Replies have the addresses that the client sees, so their
    records show no NAT.
    """
    there = flow_records(count)
    back = reverse(there)
    there["translated"] = 1
    for side in ("source", "destination"):
        there[f"nat_{side}_address"] = there[f"{side}_address"][:, :4]
        there[f"nat_{side}_port"] = there[f"{side}_port"]
    there["nat_source_address"] = (203, 0, 113, 9)
    there["nat_source_port"] += 7
    return there, back


def untranslated(records: Rows) -> Rows:
    """Returns the records as they are if there was no time to look them up."""
    found = records.copy()
    for column in ("address", "port"):
        found[f"nat_source_{column}"] = found[f"nat_destination_{column}"] = 0
    found["translated"] = 0
    return found


def test_answers_to_translated_requests_go_with_them() -> None:
    there, back = outgoing(20_000)
    shares = ShareGroup("hash", NAMES).split(np.concatenate([there, back]), [True] * 4)
    found = [members([share]) for share in shares]
    assert sum(map(len, found)) == 20_000, "the directions of a flow are with two members"
    assert all(4700 < len(share) < 5300 for share in found)


@pytest.mark.parametrize("seen_first", ["there", "back", "both", "untranslated"])
def test_later_records_of_a_translated_flow_go_where_the_first_went(seen_first: str) -> None:
    there, back = outgoing(20_000)
    both = np.concatenate([there, back])
    first = {"there": there, "back": back, "both": both, "untranslated": untranslated(both)}
    first[seen_first]["end_reason"] = EndReason.ACTIVE_TIMEOUT
    group = ShareGroup("hash", NAMES)
    expected = members(group.split(first[seen_first], [True] * 4))
    for later in (back, there, untranslated(there), both):
        assert members(group.split(later, [True] * 4)) == expected


def test_a_joined_flow_whose_two_ends_see_other_addresses_stays_together() -> None:
    """The ends are before and behind the host's own NAT, and neither was looked up."""
    there, back = flow_records(5000), reverse(flow_records(5000))
    back["source_address"][:, 0] = 172
    shares = ShareGroup("hash", NAMES).split(np.concatenate([there, back]), [True] * 4)
    assert sum(len(members([share])) for share in shares) == 5000


def test_what_is_remembered_of_flows_is_bounded() -> None:
    group = ShareGroup("hash", NAMES)
    for number in range(6):
        records = flow_records(50_000)
        records["flow_id"] += number * 50_000
        records["end_reason"] = EndReason.ACTIVE_TIMEOUT
        group.split(records, [True] * 4)
    memory = group._memory
    assert memory._young.count + memory._old.count <= 2 * 65536
    assert len(memory._young._keys) <= 4 * 65536


def test_unknown_kinds() -> None:
    with pytest.raises(ValueError, match="dice"):
        ShareGroup("dice", NAMES)
