"""Tests that connections within one read give the same records as long ones."""

from __future__ import annotations

import numpy as np
import pytest

from probe.flow.batch import FlowBatch
from probe.flow.cache import FlowCache
from probe.flow.codes import TCP, UDP, EndReason, Mark, Role
from probe.flow.columns import ROW_DTYPE
from probe.flow.rows import Rows
from probe.flow.short_connections import match_ends

S = 1_000_000_000
NOW, OFFSET, HOST = 20 * S, 1_700_000_000 * S, 77
_SIZES = {"u1": 4, "u2": 50000, "u4": 1000, "u8": 100_000}


def closed_pairs(count: int, seed: int = 1) -> Rows:
    """Returns both ends of ``count`` connections with random values.

    Rows i and count + i are the two ends of a connection.
    """
    random = np.random.default_rng(seed)
    rows: Rows = np.zeros(2 * count, ROW_DTYPE)
    for name in ROW_DTYPE.names or ():
        column = rows[name]
        column[...] = random.integers(0, _SIZES[column.dtype.str[1:]], column.shape)
    rows["id"] = random.permutation(2 * count) + 1
    rows["netns"] = random.choice([HOST, HOST + 1], 2 * count)
    rows["protocol"], rows["ip_version"] = TCP, 4
    rows["role"] = random.choice([Role.UNKNOWN, Role.INITIATOR, Role.RESPONDER], 2 * count)
    rows["mark"] = Mark.CLOSED | random.choice([0, Mark.ESTIMATED], 2 * count)
    rows["start_ns"] = 15 * S + random.integers(0, S, 2 * count)
    rows["last_ns"] = rows["start_ns"] + random.integers(0, S, 2 * count).astype(np.uint64)
    rows["tx_packets"][::7] = 0
    mine = rows["isn_local"][:count]
    mine[:] = np.arange(count) + 1
    rows["isn_remote"][:count] = others = 2**32 - 1 - random.permutation(count)
    rows["isn_local"][count:], rows["isn_remote"][count:] = others, mine
    return rows


def exported(*batches: Rows, cache: FlowCache | None = None) -> list[bytes]:
    cache = cache or FlowCache(host_netns=HOST)
    for rows in batches:
        cache.observe(FlowBatch(rows), NOW)
    return sorted(record.tobytes() for record in cache.expire(NOW, OFFSET))


@pytest.mark.parametrize("count", [1, 5, 3000])
def test_same_records_as_by_the_table(count: int) -> None:
    rows = closed_pairs(count)
    mixed = np.random.default_rng(2).permutation(rows)
    brief = FlowCache(host_netns=HOST)
    found = exported(mixed, cache=brief)
    assert found == exported(rows[:count], rows[count:])
    assert len(found) == np.count_nonzero(rows["tx_packets"])
    assert (brief.observed_flows, brief.entries) == (count, 0)
    assert not len(brief.expire(NOW + 10 * S, OFFSET))


def test_brief_connections_do_not_enter_the_table() -> None:
    cache = FlowCache()
    cache.observe(FlowBatch(closed_pairs(100)), NOW)
    assert (len(cache._table), len(cache._finder._ids), len(cache._waiting)) == (0, 0, 0)


def test_lasting_flows_of_the_same_batch_stay() -> None:
    rows = closed_pairs(4)
    rows["mark"][[0, 4]] = 0
    cache = FlowCache()
    cache.observe(FlowBatch(rows), NOW)
    assert (cache.entries, cache.observed_flows) == (1, 4)
    assert set(cache.expire(NOW, 0)["end_reason"].tolist()) == {EndReason.END_OF_FLOW}


@pytest.mark.parametrize("known", [[0], [1], [0, 1]])
def test_a_connection_that_was_seen_before_goes_on(known: list[int]) -> None:
    """Each direction has one record with the deltas of both batches and the first flow's times."""
    last = closed_pairs(1)
    last["tx_packets"] = 5, 8
    first = last.copy()
    first["mark"] = 0
    last["start_ns"] = first["start_ns"]
    cache = FlowCache()
    cache.observe(FlowBatch(first[known]), NOW)
    assert cache.entries == 1
    cache.observe(FlowBatch(last), NOW)
    records = cache.expire(NOW, 0)
    expected = last["tx_packets"].astype(int)
    expected[known] *= 2
    assert sorted(records["packets"].tolist()) == sorted(expected.tolist())
    assert cache.observed_flows == 1


def test_snapshot_and_last_row_in_one_batch() -> None:
    last = closed_pairs(1)
    last["tx_packets"] = 5
    live = last.copy()
    live["mark"], live["last_ns"] = 0, last["last_ns"] - np.uint64(1)
    cache = FlowCache()
    cache.observe(FlowBatch(np.concatenate([last, live[:1]])), NOW)
    assert sorted(cache.expire(NOW, 0)["packets"].tolist()) == [5, 10]
    assert cache.observed_flows == 1


def test_who_is_left_to_the_table() -> None:
    def matched(**columns: int) -> int:
        rows = closed_pairs(1)
        for name, value in columns.items():
            rows[name][0] = value
        return len(match_ends(rows, 15 * S)[0])

    assert matched() == 1
    assert matched(mark=0) == 0
    assert matched(mark=Mark.CLOSED | Mark.PREEXISTING) == 0
    assert matched(protocol=UDP) == 0
    assert matched(start_ns=1, last_ns=15 * S + 2) == 0
    assert matched(isn_local=0, isn_remote=0) == 0
    assert matched(isn_local=4_000_000_000) == 0


def test_a_third_end_with_the_same_numbers_makes_a_crowd() -> None:
    rows = closed_pairs(1)
    crowd = np.concatenate([rows, rows[:1]])
    crowd["id"][2] = 9
    assert len(match_ends(crowd, 15 * S)[0]) == 0


def test_two_ends_with_equal_numbers_are_no_pair() -> None:
    rows = closed_pairs(1)[[0, 0]]
    rows["id"] = 1, 2
    assert len(match_ends(rows, 15 * S)[0]) == 0


def test_owners_of_records_that_wait_are_in_use() -> None:
    rows = closed_pairs(1)
    rows["owner"], rows["tx_packets"] = (3, 4), 1
    cache = FlowCache()
    cache.observe(FlowBatch(rows), NOW)
    assert cache.owners_in_use().tolist() == [3, 4]
    cache.expire(NOW, 0)
    assert cache.owners_in_use().tolist() == []


def test_flush_exports_what_ended_with_its_reason() -> None:
    cache = FlowCache()
    cache.observe(FlowBatch(closed_pairs(8)), NOW)
    records = cache.flush(NOW, OFFSET)
    assert set(records["end_reason"].tolist()) == {EndReason.END_OF_FLOW}
    assert (records["first_ns"] >= OFFSET).all()
    assert not len(cache.flush(NOW, OFFSET))
