"""Tests UDP ports that pass from one socket to another: one flow, each packet counted once."""

from __future__ import annotations

import pytest

from probe.flow.cache import FlowCache
from probe.flow.codes import Mark
from probe.flow.rows import Rows
from tests.unit.test_cache import UDP, S, batch, end, other, shown

NETNS = {"netns": 5}


def totals(*parts: Rows) -> dict[int, int]:
    """Returns packets by source port."""
    found: dict[int, int] = {}
    for records in parts:
        for port, packets in shown(records, "source_port", "packets"):
            found[port] = found.get(port, 0) + packets
    return found


def first(**columns: int) -> dict[str, int]:
    row: dict[str, int] = end(1, protocol=UDP, mark=Mark.CLOSED, **NETNS, **columns)
    return row


def second(**columns: int) -> dict[str, int]:
    row: dict[str, int] = end(2, protocol=UDP, start_ns=10 * S, **NETNS, **columns)
    return row


def server(packets: int) -> dict[str, int]:
    """Returns the server's end with ``packets`` each way. It cannot tell the two clients apart."""
    row: dict[str, int] = other(
        9, protocol=UDP, tx_packets=packets, rx_packets=packets, netns=6, last_ns=11 * S
    )
    return row


@pytest.mark.parametrize("apart_s", [0, 0.5, 2, 3.5])
def test_each_packet_once(apart_s: float) -> None:
    """The second socket may appear at any time after the first one.

    It appears in the same read, before the first one's end is reported, during its linger, or
    later.
    """
    cache = FlowCache()
    now = 11 * S
    begun = batch(first(rx_packets=3), server(3))
    again = batch(second(rx_packets=3, last_ns=int(now + apart_s * S)), server(3))
    records = []
    if apart_s:
        cache.observe(begun, now)
        records.append(cache.expire(now, 0))
        now += int(apart_s * S)
        records.append(cache.expire(now, 0))
        cache.observe(again, now)
    else:
        cache.observe(batch(first(rx_packets=3), second(rx_packets=3), server(6)), now)
    records += [cache.expire(now, 0), cache.flush(now + S, 0)]
    assert totals(*records) == {1000: 6, 80: 6}
    assert all((part["first_ns"] <= part["last_ns"]).all() for part in records)
    assert cache.late_packets == 0


def test_a_port_taken_over_is_open() -> None:
    """The flow does not end with the socket that gave the port back."""
    cache = FlowCache()
    taken = second(rx_packets=3, last_ns=11 * S)
    cache.observe(batch(first(rx_packets=3), taken, server(6)), 11 * S)
    assert len(cache.expire(13 * S, 0)) == 0
    assert cache.entries == 1


def test_equal_tuples_in_two_namespaces_stay_apart() -> None:
    cache = FlowCache()
    cache.observe(batch(end(1, protocol=UDP, netns=5), end(2, protocol=UDP, netns=7)), 11 * S)
    assert cache.entries == 2
