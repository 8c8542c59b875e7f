"""Tests FlowCache with one test for each rule, on rows written by hand."""

from __future__ import annotations

import ipaddress
from typing import Any

import numpy as np
import pytest

from probe.flow.batch import FlowBatch
from probe.flow.cache import FlowCache
from probe.flow.codes import Mark, Role
from probe.flow.columns import ROW_DTYPE
from probe.flow.rows import Rows

S = 1_000_000_000
TCP, UDP = 6, 17
A, B = "10.0.0.1", "10.0.0.2"
HOST = 77


def end(identity: int, **columns: Any) -> dict[str, Any]:
    """Returns an open TCP end with 3 packets sent and 2 received, seen at second 10."""
    row: dict[str, Any] = {
        "id": identity, "local_address": A, "remote_address": B,
        "local_port": 1000, "remote_port": 80, "protocol": TCP, "start_ns": 9 * S,
        "last_ns": 10 * S, "tx_packets": 3, "tx_octets": 300, "rx_packets": 2, "rx_octets": 200,
    }  # fmt: skip
    return row | columns


def other(identity: int, **columns: Any) -> dict[str, Any]:
    """Returns the other end of the same connection, at B."""
    mirrored = {"local_address": B, "remote_address": A, "local_port": 80, "remote_port": 1000,
                "tx_packets": 2, "tx_octets": 200,
                "rx_packets": 3, "rx_octets": 300}  # fmt: skip
    return end(identity, **(mirrored | columns))


def isn(local: int, remote: int) -> dict[str, int]:
    return {"isn_local": local, "isn_remote": remote}


def batch(*rows: dict[str, Any]) -> FlowBatch:
    array: Rows = np.zeros(len(rows), ROW_DTYPE)
    for target, row in zip(array, rows, strict=True):
        for name, value in row.items():
            if name.endswith("_address"):
                address = ipaddress.ip_address(value)
                target["ip_version"] = address.version
                target[name] = np.frombuffer(address.packed.ljust(16, b"\0"), np.uint8)
            else:
                target[name] = value
    return FlowBatch(array)


def shown(records: Rows, *names: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(int(record[name]) for name in names) for record in records)


def counts(records: Rows) -> list[tuple[Any, ...]]:
    return shown(records, "source_port", "packets", "octets", "end_reason")


CLOSED: dict[str, Any] = {"mark": Mark.CLOSED}
PAIR = (end(1, **isn(7, 9)), other(2, **isn(9, 7)))


@pytest.mark.parametrize(
    ("local", "remote", "netns", "ifindex", "interfaces"),
    [
        ("127.0.0.1", "127.0.0.2", HOST, 0, 1),
        ("::1", "::1", HOST, 0, 1),
        (A, A, HOST, 0, 1),  # its own address
        (A, B, HOST, 0, 0),
        (A, A, HOST, 3, 3),
        ("127.0.0.1", "127.0.0.1", 78, 0, 0),  # within a container, over its loopback interface
    ],
)
def test_a_lone_end_on_loopback_has_its_interface(
    local: str, remote: str, netns: int, ifindex: int, interfaces: int
) -> None:
    cache = FlowCache(host_netns=HOST)
    addresses = {"local_address": local, "remote_address": remote}
    cache.observe(batch(end(1, netns=netns, ifindex=ifindex, **addresses)), 10 * S)
    names = ("flow_direction", "egress_interface", "ingress_interface")
    received, sent = shown(cache.flush(11 * S, 0), *names)
    assert (received, sent) == ((0, 0, interfaces), (1, interfaces, 0))


@pytest.mark.parametrize("marks", [{}, CLOSED], ids=["lasting", "brief"])
def test_two_ends_in_one_namespace_talk_by_its_loopback(marks: dict[str, Any]) -> None:
    cache = FlowCache(host_netns=HOST)
    one = end(1, netns=HOST, ifindex=0, **isn(7, 9), **marks)
    two = other(2, netns=HOST, ifindex=1, **isn(9, 7), **marks)
    cache.observe(batch(one, two), 10 * S)
    records = cache.flush(11 * S, 0)
    assert shown(records, "egress_interface", "ingress_interface") == [(1, 0), (1, 0)]


def test_a_lone_end_yields_both_directions() -> None:
    cache = FlowCache(host_netns=HOST)
    cache.observe(
        batch(end(1, owner=5, netns=HOST, ifindex=3, role=Role.INITIATOR, dscp=8, tx_flags=2,
                  rx_flags=18, retransmitted=1, mark=Mark.ESTIMATED)), 10 * S)  # fmt: skip
    records = cache.flush(11 * S, 0)
    names = (
        "flow_direction", "biflow_direction", "source_owner", "destination_owner", "dscp",
        "tcp_flags", "retransmitted", "egress_interface", "ingress_interface", "estimated",
    )  # fmt: skip
    assert shown(records, *names) == [
        (0, 2, 0, 5, 0, 18, 0, 0, 3, 1),
        (1, 1, 5, 0, 8, 2, 1, 3, 0, 1),
    ]
    assert counts(records) == [(80, 2, 200, 4), (1000, 3, 300, 4)]
    assert cache.entries == 0


def test_joined_tcp_ends_leave_each_direction_once_with_both_owners() -> None:
    cache = FlowCache()
    a, b = PAIR
    cache.observe(batch(a | {"owner": 5}, b | {"owner": 6, "rx_packets": 1, "role": 2}), 10 * S)
    assert (cache.entries, cache.observed_flows) == (1, 1)
    assert cache.owners_in_use().tolist() == [5, 6]
    records = cache.flush(11 * S, 0)
    assert counts(records) == [(80, 2, 200, 4), (1000, 3, 300, 4)]
    names = ("source_port", "source_owner", "destination_owner", "flow_direction")
    assert shown(records, *names) == [(80, 6, 5, 1), (1000, 5, 6, 1)]
    assert shown(records, "source_port", "biflow_direction") == [(80, 2), (1000, 1)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("together", [True, False])
def test_an_older_opener_is_one_short(order: tuple[int, int], together: bool) -> None:
    old = {"mark": Mark.PREEXISTING}
    ends = (end(1, **isn(7, 9), **old), other(2, **isn(9, 8), **old))
    cache = FlowCache()
    for group in [order] if together else [order[:1], order[1:]]:
        cache.observe(batch(*(ends[i] for i in group)), 10 * S)
    assert cache.entries == 1


def test_the_off_by_one_is_not_tried_for_ends_that_the_probe_saw_open() -> None:
    cache = FlowCache()
    cache.observe(batch(end(1, **isn(7, 9)), other(2, **isn(9, 8))), 10 * S)
    assert cache.entries == 2


def test_unknown_sequence_numbers_never_join() -> None:
    cache = FlowCache()
    cache.observe(batch(end(1), other(2)), 10 * S)
    assert cache.entries == 2


def test_udp_ends_join_by_the_reversed_tuple() -> None:
    cache = FlowCache()
    cache.observe(batch(end(1, protocol=UDP), other(2, protocol=UDP)), 10 * S)
    assert cache.entries == 1


@pytest.mark.parametrize("received", [0, 5000])
def test_udp_ends_with_unlike_traffic_do_not_join(received: int) -> None:
    cache = FlowCache()
    silent = {"protocol": UDP, "rx_packets": received, "rx_octets": 0, "tx_packets": 0}
    cache.observe(batch(end(1, protocol=UDP, rx_packets=0), other(2, **silent)), 10 * S)
    assert cache.entries == 2


def test_udp_ends_join_when_their_traffic_becomes_plausible() -> None:
    cache = FlowCache()
    quiet = {"protocol": UDP, "tx_packets": 0, "rx_packets": 0}
    cache.observe(batch(end(1, protocol=UDP, rx_packets=0), other(2, **quiet)), 10 * S)
    assert cache.entries == 2
    cache.observe(batch(other(2, protocol=UDP, tx_packets=0)), 11 * S)
    assert (cache.entries, cache.observed_flows) == (1, 1)


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_socket_that_talks_to_itself_sends_only(protocol: int) -> None:
    cache = FlowCache()
    self_talk = end(1, remote_address=A, local_port=80, protocol=protocol, **isn(7, 7))
    cache.observe(batch(self_talk), 10 * S)
    assert counts(cache.flush(11 * S, 0)) == [(80, 3, 300, 4)]


def test_rows_of_one_end_in_one_batch_are_summed_and_the_latest_wins() -> None:
    cache = FlowCache()
    late = end(1, last_ns=11 * S, tcp_state=7, tx_flags=1, **CLOSED)
    cache.observe(batch(late, end(1, tcp_state=1, tx_flags=2, owner=4), end(2)), 12 * S)
    records = cache.expire(14 * S, 0)
    assert counts(records) == [(80, 4, 400, 3), (1000, 6, 600, 3)]
    assert shown(records, "tcp_state", "last_ns") == [(7, 11 * S)] * 2
    assert shown(records, "source_owner", "tcp_flags") == [(0, 0), (4, 3)]


def test_what_a_later_row_forgets_is_kept() -> None:
    cache = FlowCache(host_netns=HOST)
    known = {"owner": 4, "owner_source": 1, "role": 1, "netns": HOST, "tx_flags": 2}
    cache.observe(batch(end(1, ifindex=3, **known)), 10 * S)
    cache.observe(batch(end(1, netns=HOST, tx_flags=16)), 11 * S)
    sent = cache.flush(12 * S, 0)[0]
    assert (sent["source_owner"], sent["source_owner_source"], sent["biflow_direction"]) == (
        4,
        1,
        1,
    )
    assert (sent["egress_interface"], sent["tcp_flags"]) == (3, 18)


def test_late_join_never_counts_twice() -> None:
    cache = FlowCache(active_timeout_ns=5 * S)
    cache.observe(batch(end(1), other(2)), 10 * S)
    cache.observe(batch(), 15 * S)
    first = cache.expire(15 * S, 0)
    assert len(first) == 4
    again = isn(7, 9), isn(9, 7)
    cache.observe(
        batch(end(1, last_ns=16 * S, **again[0]), other(2, last_ns=16 * S, **again[1])), 16 * S
    )
    assert cache.entries == 1
    cache.observe(batch(end(1, last_ns=17 * S), other(2, last_ns=17 * S)), 17 * S)
    later = cache.flush(18 * S, 0)
    total = int(first["packets"].sum() + later["packets"].sum())
    assert total == 9 + 6  # what each end sent in three rows
    assert (later["first_ns"] >= first["last_ns"].max()).all()


def test_a_direction_without_packets_leaves_no_record() -> None:
    cache = FlowCache()
    cache.observe(batch(end(1, rx_packets=0, rx_octets=0)), 10 * S)
    assert counts(cache.flush(11 * S, 0)) == [(1000, 3, 300, 4)]
    cache.observe(batch(end(2, tx_packets=0, rx_packets=0)), 10 * S)
    assert len(cache.flush(11 * S, 0)) == 0


def test_a_closed_end_waits_for_its_peer() -> None:
    cache = FlowCache()
    a, b = PAIR
    cache.observe(batch(a | CLOSED), 10 * S)
    assert len(cache.expire(10 * S + S // 2, 0)) == 0
    cache.observe(batch(b | CLOSED), 10 * S + S // 2)
    assert counts(cache.expire(10 * S + S // 2, 0)) == [(80, 2, 200, 3), (1000, 3, 300, 3)]
    assert cache.entries == 0


def test_a_late_peer_yields_no_second_record() -> None:
    cache = FlowCache()
    a, b = PAIR
    cache.observe(batch(a | CLOSED), 10 * S)
    assert len(cache.expire(11 * S, 0)) == 2
    cache.observe(batch(b), 12 * S)
    cache.observe(batch(b | CLOSED), 13 * S)
    assert cache.late_packets == 10
    assert len(cache.expire(15 * S, 0)) == 0
    assert len(cache.flush(30 * S, 0)) == 0


def test_a_half_closed_pair_ends_once_however_long_the_other_end_lives() -> None:
    cache = FlowCache()
    a, b = PAIR
    cache.observe(batch(a | CLOSED, b), 10 * S)
    assert len(cache.expire(10 * S, 0)) == 0
    assert len(cache.expire(11 * S, 0)) == 2
    for t in (20, 100):
        cache.expire(t * S, 0)
    cache.observe(batch(b | CLOSED | {"last_ns": 200 * S}), 200 * S)
    assert len(cache.flush(201 * S, 0)) == 0
    assert cache.late_packets == 5


def test_active_timeout_records_are_deltas_that_adjoin() -> None:
    cache = FlowCache()
    records = []
    for t in range(10, 80):
        cache.observe(batch(end(1, last_ns=t * S)), t * S)
        records += list(cache.expire(t * S, 1000 * S))
    assert [(int(r["packets"]), int(r["end_reason"])) for r in records] == [(180, 2), (120, 2)]
    assert (records[0]["first_ns"], records[0]["last_ns"]) == (1009 * S, 1069 * S)
    rest = cache.flush(80 * S, 1000 * S)
    assert rest[0]["first_ns"] == 1069 * S
    assert rest[0]["packets"] == 30


def test_an_idle_flow_that_resumes_is_a_new_flow() -> None:
    cache = FlowCache()
    cache.observe(batch(end(1)), 10 * S)
    assert len(cache.expire(24 * S, 0)) == 0
    assert counts(cache.expire(25 * S, 0)) == [(80, 2, 200, 1), (1000, 3, 300, 1)]
    cache.observe(batch(end(9, last_ns=99 * S, start_ns=99 * S)), 99 * S)
    cache.observe(batch(end(1, last_ns=100 * S)), 100 * S)
    resumed = cache.flush(100 * S, 0)
    assert (resumed["packets"].sum(), cache.observed_flows) == (10, 3)
    assert resumed["first_ns"].min() == 99 * S


def test_the_bound_evicts_the_least_recently_active() -> None:
    cache = FlowCache(max_entries=2)
    cache.observe(batch(*(end(i, local_port=i, last_ns=(10 + i) * S) for i in range(1, 5))), 15 * S)
    records = cache.expire(15 * S, 0)
    assert [port for port, *_ in counts(records)] == [1, 2, 80, 80]
    assert set(records["end_reason"]) == {5}
    assert (cache.evicted, cache.entries) == (2, 2)


def test_times_are_ordered_and_never_in_the_future() -> None:
    cache = FlowCache()
    cache.observe(
        batch(end(1, start_ns=30 * S, last_ns=40 * S), end(2, start_ns=9 * S, last_ns=0)), 20 * S
    )
    records = cache.flush(20 * S, 5 * S)
    assert (records["first_ns"] <= records["last_ns"]).all()
    assert (records["last_ns"] <= 25 * S).all()


def test_rows_of_another_layout_are_converted() -> None:
    cache = FlowCache()
    cache.observe(batch(end(1)), 10 * S)
    wider: Rows = np.zeros(1, np.dtype([("more", "u1", 3), *ROW_DTYPE.descr]))
    for name in ROW_DTYPE.names or ():
        wider[name] = batch(end(2)).rows[name]
    cache.observe(FlowBatch(wider), 10 * S)
    assert len(cache.flush(11 * S, 0)) == 4


def test_a_thousand_flows_cost_little_memory() -> None:
    cache = FlowCache()
    cache.observe(batch(*(end(i, **isn(i, i + 5000)) for i in range(1, 1001))), 10 * S)
    parts = (cache._table, cache._finder._ids, cache._waiting, cache._waiting._index)
    columns = [column for part in parts for column in vars(part).values()]
    assert sum(c.nbytes for c in columns if isinstance(c, np.ndarray)) < 2_000_000


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_many_connections_at_once(protocol: int) -> None:
    """Every table grows more than once. Both ends are new in the same batch, twice."""
    count = 5000
    rows: Rows = np.repeat(batch(*(row | {"protocol": protocol} for row in PAIR)).rows, count)
    n = np.arange(count, dtype=np.uint32)
    for side, (mine, others) in enumerate((("local", "remote"), ("remote", "local"))):
        ends = rows[side * count : (side + 1) * count]
        ends["id"] = 2 * n + 1 + side
        ends[f"{mine}_port"] = 1000 + n
        ends[f"isn_{mine}"], ends[f"isn_{others}"] = 1 + n, 900_000 + n
    last = rows.copy()
    last["mark"] = Mark.CLOSED
    for name in ("tx_packets", "rx_packets", "tx_octets", "rx_octets"):
        last[name] = 0
    cache = FlowCache()
    for round_number in (0, 1):
        rows["id"] += round_number * 2 * count
        last["id"] = rows["id"]
        cache.observe(FlowBatch(np.random.default_rng(1).permutation(rows)), 10 * S)
        assert cache.entries == count
        cache.observe(FlowBatch(np.random.default_rng(2).permutation(last)), 10 * S)
        records = cache.expire(10 * S, 0)
        assert (len(records), int(records["packets"].sum())) == (2 * count, 5 * count)
        assert (records["flow_direction"] == 1).all()
    assert len(cache._finder._ids) == len(cache._waiting) == len(cache._table) == 0


def test_every_record_tells_when_its_flow_began() -> None:
    """Each record has the start of its flow, not its own.

    It is the start of the end that began earlier, whichever end was seen first.
    """
    cache = FlowCache(active_timeout_ns=5 * S, idle_timeout_ns=60 * S, host_netns=HOST)
    cache.observe(batch(end(1, **isn(5, 6))), 10 * S)
    first = cache.expire(15 * S, 1000)
    # some sources know only the time of a socket's latest row, and give that as its start
    cache.observe(batch(end(1, **isn(5, 6), start_ns=16 * S, last_ns=17 * S)), 17 * S)
    second = cache.expire(22 * S, 1000)
    for records in (first, second):
        assert set(records["begun_ns"].tolist()) == {9 * S + 1000}
    assert second["first_ns"].min() == 10 * S + 1000
    cache.observe(batch(other(2, **isn(6, 5), start_ns=8 * S, last_ns=23 * S)), 23 * S)
    cache.observe(batch(end(1, **isn(5, 6), last_ns=24 * S)), 24 * S)
    assert set(cache.flush(25 * S, 1000)["begun_ns"].tolist()) == {8 * S + 1000}
