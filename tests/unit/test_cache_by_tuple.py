"""Tests TCP ends of sources without sequence numbers: they are joined by their 5-tuple."""

from __future__ import annotations

import socket

import numpy as np

from probe.flow.batch import FlowBatch
from probe.flow.cache import FlowCache
from probe.flow.codes import Mark
from probe.flow.columns import ROW_DTYPE
from probe.flow.rows import Rows

S = 10**9


def end(
    identity: int, local: tuple[str, int], remote: tuple[str, int], tx: int, rx: int,
    netns: int = 1, mark: Mark = Mark.BY_TUPLE,
) -> Rows:  # fmt: skip
    row = np.zeros(1, ROW_DTYPE)
    row["id"], row["netns"], row["mark"], row["protocol"], row["ip_version"] = (
        identity, netns, mark, 6, 4,
    )  # fmt: skip
    row["start_ns"], row["last_ns"] = 9 * S, 10 * S
    row["tx_packets"], row["tx_octets"], row["rx_packets"], row["rx_octets"] = (
        tx, 100 * tx, rx, 100 * rx,
    )  # fmt: skip
    for side, (address, port) in (("local", local), ("remote", remote)):
        octets = socket.inet_aton(address).ljust(16, b"\0")
        row[f"{side}_address"] = np.frombuffer(octets, np.uint8)
        row[f"{side}_port"] = port
    return row


def records(*batches: list[Rows]) -> Rows:
    cache = FlowCache()
    for at, batch in enumerate(batches):
        cache.observe(FlowBatch(np.concatenate(batch)), (10 + at) * S)
    return cache.flush(20 * S, 0)


A, B = ("10.0.0.1", 1000), ("10.0.0.2", 80)
HERE, THERE = ("127.0.0.1", 1000), ("127.0.0.1", 80)


def test_two_ends_are_one_flow() -> None:
    found = records([end(1, A, B, 3, 2)], [end(2, B, A, 2, 3, netns=2)])
    assert sorted(found["packets"].tolist()) == [2, 3]
    assert len(set(found["flow_id"].tolist())) == 1
    assert set(found["source_netns"].tolist()) == {1, 2}


def test_two_ends_that_closed_in_one_batch() -> None:
    closed = Mark.BY_TUPLE | Mark.CLOSED
    found = records([end(1, A, B, 3, 2, mark=closed), end(2, B, A, 2, 3, mark=closed)])
    assert sorted(found["packets"].tolist()) == [2, 3]


def test_each_namespace_has_its_own_loopback() -> None:
    pairs = ((HERE, THERE), (THERE, HERE))
    ends = [
        end(n + at, *pair, 3 + at, 4 - at, netns=n)
        for n in (10, 20)
        for at, pair in enumerate(pairs)
    ]
    found = records(ends)
    assert len(found) == 4
    assert (found["source_netns"] == found["destination_netns"]).all()


def test_other_rows_without_sequence_numbers_stay_alone() -> None:
    nothing = Mark(0)
    found = records([end(1, A, B, 3, 2, mark=nothing), end(2, B, A, 2, 3, mark=nothing)])
    assert len(found) == 4
