"""Tests UDP flows that change their owner: one record for each, and each packet once."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from probe.flow.cache import FlowCache
from probe.flow.codes import Mark, OwnerSource
from probe.flow.rows import Rows
from tests.unit.test_cache import UDP, S, batch, end, other, shown

SERVER = 90


def client(owner: int, sent: int, got: int, at_s: float, **columns: Any) -> dict[str, Any]:
    at = int(at_s * S)
    return end(
        owner, owner=owner, owner_source=1, protocol=UDP, netns=5, start_ns=at, last_ns=at,
        tx_packets=sent, tx_octets=100 * sent, rx_packets=got, rx_octets=200 * got, **columns,
    )  # fmt: skip


def server(got: int, sent: int, at_s: float, **columns: Any) -> dict[str, Any]:
    row = other(
        1000, owner=SERVER, owner_source=1, protocol=UDP, netns=6, last_ns=int(at_s * S),
        tx_packets=sent, tx_octets=200 * sent, rx_packets=got, rx_octets=100 * got,
    )  # fmt: skip
    return row | columns


def told(*parts: Rows) -> list[tuple[int, ...]]:
    """Returns sums of packets and octets by (source, destination)."""
    sums: Counter[tuple[int, int, str]] = Counter()
    for records in parts:
        for record in records:
            pair = int(record["source_owner"]), int(record["destination_owner"])
            for name in ("packets", "octets"):
                sums[(*pair, name)] += int(record[name])
    pairs = sorted({key[:2] for key in sums})
    return [(*pair, sums[(*pair, "packets")], sums[(*pair, "octets")]) for pair in pairs]


CLOSED = {"mark": Mark.CLOSED}


@pytest.mark.parametrize("together", [True, False], ids=["one read", "a read each"])
@pytest.mark.parametrize("local", [True, False], ids=["local server", "remote server"])
def test_clients_that_follow_each_other(together: bool, local: bool) -> None:
    clients = [client(n, n, 1, 10 + n / 10, **CLOSED) for n in (1, 2, 3)]
    servers = [server(n, 1, 10 + n / 10) for n in (1, 2, 3)] if local else [{}] * 3
    cache, found, now = FlowCache(), [], 11 * S
    if together:
        last = [server(6, 3, 10.4)] if local else []
        cache.observe(batch(*clients, *last), now)
    else:
        for one, peer in zip(clients, servers, strict=True):
            cache.observe(batch(one, *([peer] if local else [])), now)
            found.append(cache.expire(now, 0))
            now += S // 10
    found.append(cache.flush(now, 0))
    there = SERVER if local else 0
    expected = [(n, there, n, 100 * n) for n in (1, 2, 3)]
    assert told(*found) == sorted([*expected, *((there, n, 1, 200) for n in (1, 2, 3))])
    ids = {int(flow) for records in found for flow in records["flow_id"]}
    assert len(ids) == 1
    assert all((records["first_ns"] <= records["last_ns"]).all() for records in found)
    assert all((records["begun_ns"] <= records["first_ns"]).all() for records in found)


def test_a_reply_that_the_server_told_after_the_end_is_its_receivers() -> None:
    """A reply belongs to its receiver although it is reported after the receiver's end.

    A snapshot reads the server's counters before the client's last row leaves the ring.
    """
    cache, now = FlowCache(), 11 * S
    cache.observe(batch(client(1, 2, 2, 10, **CLOSED), server(2, 1, 10)), now)
    found = [cache.expire(now + 2 * S, 0)]
    cache.observe(batch(client(2, 1, 1, 13.5, **CLOSED), server(1, 2, 13.5)), now + 3 * S)
    found.append(cache.flush(now + 3 * S, 0))
    assert told(*found) == [
        (1, SERVER, 2, 200),
        (2, SERVER, 1, 100),
        (SERVER, 1, 2, 400),
        (SERVER, 2, 1, 200),
    ]


def test_times_of_the_parts_follow_each_other() -> None:
    cache = FlowCache()
    cache.observe(batch(client(1, 1, 0, 10, **CLOSED), client(2, 1, 0, 10.5)), 11 * S)
    records = cache.flush(11 * S, 5 * S)
    assert shown(records, "source_owner", "first_ns", "last_ns") == [
        (1, 15 * S, 15 * S),
        (2, 15 * S, int(15.5 * S)),
    ]


def test_who_is_known_late_is_no_change() -> None:
    cache = FlowCache()
    cache.observe(batch(client(1, 1, 1, 10) | {"owner": 0}), 10 * S)
    cache.observe(batch(client(1, 1, 1, 11)), 11 * S)
    assert told(cache.flush(12 * S, 0)) == [(0, 1, 2, 400), (1, 0, 2, 200)]


def test_workers_that_take_turns_have_one_record() -> None:
    cache = FlowCache()
    for at in range(10):
        shared = client(1 + at % 3, 1, 1, 10 + at) | {"owner_source": OwnerSource.SHARED}
        cache.observe(batch(shared), (10 + at) * S)
    records = cache.flush(20 * S, 0)
    assert shown(records, "packets", "source_owner_source") == [(10, 0), (10, OwnerSource.SHARED)]


def test_owners_of_both_ends_change_in_one_read() -> None:
    cache = FlowCache()
    rows = [
        client(1, 2, 2, 10, **CLOSED),
        client(2, 3, 3, 10.5),
        server(2, 2, 10, **CLOSED),
        server(3, 3, 10.5, owner=91),
    ]
    cache.observe(batch(*rows), 11 * S)
    found = cache.flush(11 * S, 0)
    assert sum(int(n) for n in found["packets"]) == 10
    assert {pair[:2] for pair in told(found)} >= {(1, 91), (2, 91)}


@pytest.mark.parametrize("seed", range(20))
def test_each_packet_once_whatever_comes(seed: int) -> None:
    """Owners, reads and exports are random. The sum of all records equals the sender's counters."""
    chance = random.Random(seed)
    cache = FlowCache(active_timeout_ns=2 * S)
    sent: Counter[int] = Counter()
    answered, waiting, owner, now = 0, [0, 0], 1, 10 * S
    found: list[Rows] = []
    for _ in range(60):
        rows = []
        for _ in range(chance.randrange(4)):
            n, back = chance.randrange(3), chance.randrange(3)
            closed = chance.random() < 0.5
            rows.append(client(owner, n, back, now / S, **(CLOSED if closed else {})))
            sent[owner] += n
            waiting[0] += n
            waiting[1] += back
            now += S // 50
            owner = chance.randrange(1, 9) if closed else owner
        if chance.random() < 0.6:
            rows.append(server(waiting[0], waiting[1], now / S))
            answered += waiting[1]
            waiting = [0, 0]
        cache.observe(batch(*rows), now)
        now += S // 5
        found.append(cache.expire(now, 0))
    cache.observe(batch(server(waiting[0], waiting[1], now / S)), now)
    answered += waiting[1]
    found.append(cache.flush(now, 0))
    records = np.concatenate(found)
    by_client = records[records["source_port"] == 1000]
    for one, packets in sent.items():
        assert by_client["packets"][by_client["source_owner"] == one].sum() == packets
    assert records["packets"][records["source_port"] == 80].sum() == answered
    assert cache.late_packets == 0
