"""Tests peers that restart with their old address in another network namespace."""

from __future__ import annotations

from typing import Any

import pytest

from probe.flow.cache import FlowCache
from tests.unit.test_cache import UDP, S, batch, other
from tests.unit.test_cache_owner_change import CLOSED, SERVER, client, server, told


def restarted(owner: int, sent: int, got: int, at_s: float, **columns: Any) -> dict[str, Any]:
    return client(owner, sent, got, at_s) | {"netns": 50 + owner} | columns


@pytest.mark.parametrize("apart_s", [0.0, 0.4, 1.5, 3.0])
def test_a_client_in_a_new_namespace(apart_s: float) -> None:
    """The second client may appear at any time after the first one.

    It appears in the same read, before the first one's end is reported, during its linger, or
    later.
    """
    cache, found = FlowCache(), []
    rows = [restarted(1, 3, 3, 10, **CLOSED), server(3, 3, 10)]
    later = 10.2 + apart_s
    again = [restarted(2, 5, 4, later, **CLOSED), server(5, 4, later)]
    if apart_s:
        cache.observe(batch(*rows), 10 * S)
        for now in (10.1, 10.2, later):
            found.append(cache.expire(int(now * S), 0))
        cache.observe(batch(*again), int(later * S))
    else:
        cache.observe(batch(*rows, *again), int(later * S))
    found.append(cache.expire(int(later * S), 0))
    found.append(cache.flush(int((later + 0.1) * S), 0))
    assert told(*found) == [
        (1, SERVER, 3, 300),
        (2, SERVER, 5, 500),
        (SERVER, 1, 3, 600),
        (SERVER, 2, 4, 800),
    ]
    assert cache.observed_flows == 2
    assert len({int(flow) for records in found for flow in records["flow_id"]}) == 2


@pytest.mark.parametrize("last", [CLOSED, {}], ids=["closed", "silent"])
def test_a_server_in_a_new_namespace_while_its_client_goes_on(last: dict[str, int]) -> None:
    """Of the first server's socket, only the end with its first peer is seen to close."""
    cache, found = FlowCache(), []
    for at in range(10, 20):
        rows = [client(1, 10, 10, at)]
        of = SERVER if at < 14 else SERVER + 1
        rows.append(server(10, 10, at + 0.001, owner=of, netns=of, start_ns=at * S - S // 2))
        if at == 13:
            rows[-1] |= last
        cache.observe(batch(*rows), at * S + S // 10)
        found.append(cache.expire(at * S + S // 10, 0))
    found.append(cache.flush(21 * S, 0))
    assert told(*found) == [
        (1, SERVER, 40, 4000),
        (1, SERVER + 1, 60, 6000),
        (SERVER, 1, 40, 8000),
        (SERVER + 1, 1, 60, 12000),
    ]


def test_an_isolated_conversation_takes_nobodys_peer() -> None:
    """Another namespace uses the same addresses.

    The first client has closed when the second begins.
    """
    cache, found = FlowCache(), []
    cache.observe(batch(restarted(1, 3, 3, 10, **CLOSED), server(3, 3, 10)), 10 * S)
    cache.observe(batch(restarted(2, 5, 5, 10.5)), int(10.5 * S))
    isolated = other(
        7, owner=91, owner_source=1, protocol=UDP, netns=7, last_ns=int(10.5 * S),
        start_ns=int(10.5 * S), tx_packets=5, tx_octets=1000, rx_packets=5, rx_octets=500,
    )  # fmt: skip
    cache.observe(batch(isolated), int(10.6 * S))
    found.append(cache.flush(11 * S, 0))
    assert {pair[:2] for pair in told(*found)} == {(1, SERVER), (2, 91), (SERVER, 1), (91, 2)}
