"""Tests that Flow Keys are compared whole, and that ends with equal keys find their peers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from probe.flow import keys
from probe.flow.batch import FlowBatch
from probe.flow.cache import FlowCache
from probe.flow.codes import Mark
from probe.flow.rows import Rows
from tests.unit.test_cache import CLOSED, UDP, S, batch, end, other, shown

MS = S // 1000
UDP_ONLY: dict[str, Any] = {"protocol": UDP}
BY_TUPLE: dict[str, Any] = {"mark": Mark.BY_TUPLE}


def records(*batches: FlowBatch) -> Rows:
    cache = FlowCache()
    for at, rows in enumerate(batches):
        cache.observe(rows, (10 + at) * S)
    return cache.flush(20 * S, 0)


def parties(found: Rows) -> list[tuple[Any, ...]]:
    """Returns (source owner, destination owner, packets) of each record."""
    return shown(found, "source_owner", "destination_owner", "packets")


# -- keys are compared, not only their hashes -----------------------------------------------------
def test_peers_whose_octets_add_up_to_the_same_are_three_flows() -> None:
    """Three peers with the same sum of address and port are three flows.

    Keys were such sums once, so a stranger could join the flow of another.
    """
    peers = [("10.1.0.1", 1000), ("10.2.0.1", 744), ("11.1.0.1", 999)]
    ends = [
        end(9, protocol=UDP, netns=3, remote_address=address, remote_port=port)
        for address, port in peers
    ]
    found = records(batch(*ends))
    assert len(found) == 6
    assert len(set(found["flow_id"].tolist())) == 3


def _weak(words: Any) -> Any:
    """Returns the same hash for all keys."""
    return np.full(words.shape[1], 5, np.uint64)


def test_ends_with_one_hash_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "hash_words", _weak)
    ends = [end(1, protocol=UDP, netns=n % 3, remote_port=2000 + n) for n in range(40)]
    cache = FlowCache()
    cache.observe(batch(*ends[:20]), 10 * S)
    assert cache.knows(batch(*ends).rows).tolist() == [True] * 20 + [False] * 20
    cache.observe(batch(*ends, *ends[::2]), 11 * S)
    assert cache.entries == 40
    found = cache.flush(12 * S, 0)
    assert len(set(found["flow_id"].tolist())) == 40
    sent = found[found["source_port"] == 1000]
    by_port = dict(zip(sent["destination_port"].tolist(), sent["packets"].tolist(), strict=True))
    assert by_port == {2000 + n: 3 * (1 + (n < 20) + (n % 2 == 0)) for n in range(40)}


# -- the network namespace is part of the key -----------------------------------------------------
@pytest.mark.parametrize("mark", [UDP_ONLY, BY_TUPLE], ids=["udp", "tcp by tuple"])
@pytest.mark.parametrize(
    "place",
    [
        {"local_address": "127.0.0.1", "remote_address": "127.0.0.1"},
        {"local_address": "127.0.0.2", "remote_address": "10.0.0.1"},
        {"local_address": "::1", "remote_address": "::1"},
        {"ifindex": 1},
    ],
    ids=["loopback", "half", "IPv6", "interface"],
)
def test_what_stays_in_a_namespace_is_joined_in_it(
    mark: dict[str, Any], place: dict[str, Any]
) -> None:
    back = dict(place)
    if "local_address" in place:
        back["local_address"], back["remote_address"] = (
            place["remote_address"], place["local_address"],
        )  # fmt: skip
    ends = [
        make(n + at, netns=n, owner=n + at, **mark, **where)
        for n in (10, 20, 30)
        for at, (make, where) in enumerate(((end, place), (other, back)))
    ]
    random.Random(3).shuffle(ends)
    found = records(batch(*ends))
    assert parties(found) == sorted(
        one for n in (10, 20, 30) for one in [(n, n + 1, 3), (n + 1, n, 2)]
    )


@pytest.mark.parametrize("address", ["fe80::1", "169.254.1.1", "255.255.255.255", "ff02::fb"])
def test_an_address_of_a_link_is_another_one_on_each(address: str) -> None:
    local = "fe80::2" if ":" in address else "169.254.1.2"
    ends = [
        end(1, protocol=UDP, netns=5, ifindex=i, local_address=local, remote_address=address)
        for i in (2, 3, 2)
    ]
    cache = FlowCache()
    cache.observe(batch(*ends), 10 * S)
    assert cache.entries == 2


def test_other_addresses_are_not_of_a_link() -> None:
    cache = FlowCache()
    cache.observe(batch(*(end(1, protocol=UDP, netns=5, ifindex=i) for i in (2, 3))), 10 * S)
    assert cache.entries == 1


# -- many ends with one tuple ---------------------------------------------------------------------
def twins(began_ms: Sequence[tuple[float, float]], **columns: Any) -> list[dict[str, Any]]:
    """Returns pairs with one tuple, each pair in its own namespaces.

    Each pair sends 10 packets more to its server than the pair before.
    """
    ends = []
    for n, (client, server) in enumerate(began_ms):
        sent = {"tx_packets": 10 * n + 5, "tx_octets": 100, "rx_packets": 10 * n + 4}
        got = {"rx_packets": 10 * n + 5, "rx_octets": 100, "tx_packets": 10 * n + 4}
        for make, began, role, counts in (
            (end, client, 0, sent), (other, server, 1, got),
        ):  # fmt: skip
            ends.append(
                make(2 * n + role + 1, netns=100 + 2 * n + role, owner=2 * n + role + 1, ifindex=2,
                     start_ns=9 * S + int(began * MS), **(counts | UDP_ONLY | columns))
            )  # fmt: skip
    return ends


def true_parties(count: int) -> list[tuple[int, int, int]]:
    return sorted(
        one
        for n in range(count)
        for one in [(2 * n + 1, 2 * n + 2, 10 * n + 5), (2 * n + 2, 2 * n + 1, 10 * n + 4)]
    )


@pytest.mark.parametrize("seed", range(5))
def test_pairs_with_one_tuple_are_told_apart_by_when_they_began(seed: int) -> None:
    began = [(50 * n, 50 * n + 0.02) for n in range(8)]
    ends = twins(began)
    random.Random(seed).shuffle(ends)
    assert parties(records(batch(*ends))) == true_parties(8)


def test_pairs_that_come_one_after_the_other() -> None:
    ends = twins([(50 * n, 50 * n + 0.02) for n in range(4)])
    found = records(*(batch(*ends[2 * n : 2 * n + 2]) for n in range(4)))
    assert parties(found) == true_parties(4)


@pytest.mark.parametrize("extra", [0, 1], ids=["client", "server"])
def test_an_end_without_a_peer_here_stays_alone_among_pairs(extra: int) -> None:
    """Its peer is on another host and has an address that is used here, too."""
    ends = twins([(0, 0.02), (50, 50.02), (100, 100.02)])
    del ends[4 + (1 - extra)]
    found = records(batch(*ends))
    alone = ends[4]["owner"]
    expected = [*true_parties(2), (alone, 0, 25 - extra), (0, alone, 24 + extra)]
    assert parties(found) == sorted(expected)


def test_by_what_they_counted_when_they_began_too_close_to_each_other() -> None:
    """The pairs are told apart by their counters, because their start times overlap."""
    ends = twins([(0, 3), (1, 2)], last_ns=10 * S)
    for row in ends[2:]:
        row["last_ns"] = 10 * S - 300 * MS
    assert parties(records(batch(*ends))) == true_parties(2)


@pytest.mark.parametrize("mark", [UDP_ONLY, BY_TUPLE], ids=["udp", "tcp by tuple"])
@pytest.mark.parametrize("closed", [{}, CLOSED], ids=["open", "closed"])
def test_what_nothing_tells_apart_is_counted_once(
    mark: dict[str, Any], closed: dict[str, Any]
) -> None:
    united = {"mark": mark.get("mark", 0) | closed.get("mark", 0)}
    some = [end(1, netns=1), other(2, netns=2), end(3, netns=3), other(4, netns=4)]
    cache = FlowCache()
    cache.observe(batch(*(row | mark | united for row in some)), 10 * S)
    assert cache.entries == 4
    found = cache.expire(12 * S, 0) if closed else cache.flush(12 * S, 0)
    assert shown(found, "source_port", "packets") == [(80, 2), (80, 2), (1000, 3), (1000, 3)]
    assert cache.late_packets == 0


# -- groups ---------------------------------------------------------------------------------------
GROUP = "239.1.1.1"


def receiver(cookie: int, netns: int, packets: int, **columns: Any) -> dict[str, Any]:
    return other(
        cookie, cookie=cookie, owner=cookie, netns=netns, local_address=GROUP, mark=Mark.GROUP,
        tx_packets=0, tx_octets=0, rx_packets=packets, rx_octets=100 * packets, **UDP_ONLY,
        **columns,
    )  # fmt: skip


def sender(packets: int, **columns: Any) -> dict[str, Any]:
    return end(1, owner=1, remote_address=GROUP, tx_packets=packets, tx_octets=100 * packets,
               rx_packets=0, rx_octets=0, **UDP_ONLY, **columns)  # fmt: skip


@pytest.mark.parametrize("together", [True, False])
def test_what_many_receive_was_sent_once(together: bool) -> None:
    """Two receivers are in one namespace, and one is in another."""
    copies = [receiver(5, 50, 500), receiver(6, 50, 500), receiver(7, 70, 500)]
    cache = FlowCache()
    for rows in [[sender(500), *copies]] if together else [[sender(500), copies[0]], copies[1:]]:
        cache.observe(batch(*rows), 10 * S)
    cache.observe(batch(*copies), 11 * S)
    cache.observe(batch(sender(500)), 11 * S)
    found = cache.flush(12 * S, 0)
    assert shown(found, "source_port", "packets", "source_owner") == [(1000, 1000, 1)]
    assert found["destination_owner"][0] in (5, 6, 7)


def test_what_a_remote_sender_sent_to_many_counts_once() -> None:
    cache = FlowCache()
    cache.observe(batch(receiver(5, 50, 30), receiver(6, 60, 40)), 10 * S)
    cache.observe(batch(receiver(5, 50, 30), receiver(6, 60, 40)), 11 * S)
    found = cache.flush(12 * S, 0)
    assert shown(found, "packets", "destination_owner") == [(80, 6)]


@pytest.mark.parametrize("how", ["closed", "silent"])
def test_another_receiver_counts_when_the_first_one_does_not_any_more(how: str) -> None:
    cache = FlowCache()
    both = receiver(5, 50, 40), receiver(6, 60, 30)
    cache.observe(batch(*both), 10 * S)
    if how == "closed":
        last = receiver(5, 50, 0)
        last["mark"] |= Mark.CLOSED
        cache.observe(batch(last), 11 * S)
    cache.observe(batch(receiver(6, 60, 7, last_ns=18 * S)), 18 * S)
    found = cache.flush(19 * S, 0)
    assert int(found["packets"].sum()) == 47


# -- translated tuples ----------------------------------------------------------------------------
def find_peers(entries: dict[int, dict[str, Any]], asked: list[int]) -> Any:
    """Returns a look-up that knows, by an end's port, the tuple that its peer sees."""

    def find(rows: Rows, packets: Any) -> Any:
        ports = rows["local_port"].tolist()
        asked.extend(ports)
        found = [at for at, port in enumerate(ports) if port in entries]
        peers = batch(*(end(0, **entries[ports[at]]) for at in found)).rows
        peers["protocol"] = rows["protocol"][found]
        return np.arange(len(rows)), np.array(found, np.int64), peers

    return find


VIP = "10.96.0.10"
SERVER_SEES = {
    "local_address": "10.0.0.2", "local_port": 80, "remote_address": "10.0.0.9",
    "remote_port": 41000,
}  # fmt: skip
CLIENT_SEES = {
    "local_address": "10.0.0.1", "local_port": 1000, "remote_address": VIP, "remote_port": 53,
}  # fmt: skip


@pytest.mark.parametrize("mark", [UDP_ONLY, BY_TUPLE], ids=["udp", "tcp by tuple"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0,), (1,)], ids=str)
def test_ends_whose_tuples_nat_made_different(order: tuple[int, ...], mark: dict[str, Any]) -> None:
    """Both ends are joined in either order, and whichever of them has an entry."""
    rows = [
        end(1, netns=5, owner=1, **mark, **CLIENT_SEES),
        other(2, netns=6, owner=2, **mark, **SERVER_SEES),
    ]
    entries = {1000: SERVER_SEES, 80: CLIENT_SEES}
    if len(order) == 1:
        del entries[rows[1 - order[0]]["local_port"]]
    cache, asked = FlowCache(), list[int]()
    for at, which in enumerate(order if len(order) == 2 else (0, 1)):
        cache.observe(batch(rows[which]), (10 + at) * S)
        cache.join_translated(find_peers(entries, asked), (10 + at) * S)
    cache.observe(batch(*rows), 12 * S)
    cache.join_translated(find_peers(entries, asked), 12 * S)
    assert sorted(asked) == [80, 1000]
    assert cache.entries == cache.observed_flows == 1
    found = cache.flush(13 * S, 0)
    assert len(set(found["flow_id"].tolist())) == 1
    assert parties(found) == [(1, 2, 6), (2, 1, 4)]
    assert shown(found, "source_port", "destination_port") == [(80, 41000), (1000, 53)]


def test_a_peer_with_another_tuple_than_nat_told_is_no_peer() -> None:
    rows = [
        end(1, protocol=UDP, netns=5, **CLIENT_SEES),
        other(2, protocol=UDP, netns=6, **(SERVER_SEES | {"remote_port": 41001})),
    ]
    cache = FlowCache()
    cache.observe(batch(*rows), 10 * S)
    cache.join_translated(find_peers({1000: SERVER_SEES}, []), 10 * S)
    assert cache.entries == 2


def test_the_two_halves_of_a_socket_whose_own_host_translates() -> None:
    """Sent packets are metered after the translation, received packets before it."""
    sent = {
        "local_address": "10.0.0.9", "local_port": 41000, "remote_address": "10.0.0.2",
        "remote_port": 80, "rx_packets": 0, "rx_octets": 0,
    }  # fmt: skip
    received = CLIENT_SEES | {"tx_packets": 0, "tx_octets": 0}
    rows = [
        end(1, protocol=UDP, netns=5, owner=1, **sent),
        end(2, protocol=UDP, netns=5, owner=1, **received),
    ]
    server = other(3, protocol=UDP, netns=6, owner=2, **SERVER_SEES)
    for some, expected in (
        (rows, [(0, 1, 6), (1, 0, 9)]),
        ([*rows, server], [(1, 2, 9), (2, 1, 6)]),
    ):
        cache = FlowCache()
        for at in range(3):
            cache.observe(batch(*some), (10 + at) * S)
            cache.join_translated(find_peers({1000: SERVER_SEES}, []), (10 + at) * S)
        assert cache.entries == cache.observed_flows == 1
        assert parties(cache.flush(13 * S, 0)) == expected
        assert len(cache._finder._ids) == len(cache._waiting) == len(cache._table) == 0


# -- floods ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("step", [(1, 0), (1, -1), (0, 1), (256, 255), (1 << 16, 1)], ids=str)
def test_peers_that_somebody_chose_are_found_as_fast_as_others(step: tuple[int, int]) -> None:
    """The longest probe stays short, counted in cells.

    With (1, -1) the sum of address and port is constant.
    """
    count = 20_000
    rows: Rows = np.repeat(batch(end(9, protocol=UDP, netns=3)).rows, count)
    n = np.arange(count)
    address = (0x0A000001 + n * step[0]) % 2**32
    rows["remote_address"][:, :4] = address.astype("<u4").view(np.uint8).reshape(-1, 4)
    rows["remote_port"] = (60_000 + n * step[1]) % 65536
    cache = FlowCache()
    cache.observe(FlowBatch(rows), 10 * S)
    assert cache.entries == count
    assert cache._finder._ids.longest < 64
    assert cache._waiting._index.longest < 64
