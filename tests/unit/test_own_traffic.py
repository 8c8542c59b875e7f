"""Tests that the probe does not meter itself."""

from __future__ import annotations

import os
import socket
from typing import Any

import numpy as np
import pytest

from probe.flow.batch import FlowBatch
from probe.flow.columns import ROW_DTYPE
from probe.flow.owner import Owner, OwnerTable, Process
from probe.run import own_traffic
from probe.run.own_traffic import OwnTraffic


def batch(*rows: dict[str, Any]) -> FlowBatch:
    array = np.zeros(len(rows), ROW_DTYPE)
    for row, values in zip(array, rows, strict=True):
        for name, value in values.items():
            if name.endswith("address"):
                family = socket.AF_INET6 if ":" in value else socket.AF_INET
                value = np.frombuffer(socket.inet_pton(family, value).ljust(16, b"\0"), np.uint8)
            row[name] = value
        row["protocol"] = values.get("protocol", 17)
    return FlowBatch(array)


def ids(kept: FlowBatch) -> list[int]:
    found: list[int] = kept.rows["id"].tolist()
    return found


def test_sockets_of_our_process_are_counted_not_metered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_traffic, "_pid_is_kernels", lambda: True)
    owners = OwnerTable()
    ours, other = owners.add(Owner(Process(os.getpid()))), owners.add(Owner(Process(1)))
    own = OwnTraffic(owners)
    rows = [
        {"id": 1, "owner": ours, "tx_octets": 5, "tx_packets": 1, "rx_octets": 2, "rx_packets": 1},
        {"id": 2, "owner": other, "tx_octets": 9},
        {"id": 3, "owner": 0},
    ]
    assert ids(own.take_out(batch(*rows))) == [2, 3]
    assert (own.statistics.octets, own.statistics.packets) == (7, 2)


def test_a_pid_of_another_namespace_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_traffic, "_pid_is_kernels", lambda: False)
    owners = OwnerTable()
    index = owners.add(Owner(Process(os.getpid())))
    assert ids(OwnTraffic(owners).take_out(batch({"id": 1, "owner": index}))) == [1]


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_both_ends_of_an_export_session(address: str) -> None:
    own = OwnTraffic(OwnerTable())
    own.remember([(address, 5000, 17)], 0.0)
    rows = [
        {"id": 1, "local_address": address, "local_port": 5000, "tx_octets": 8, "tx_packets": 1},
        {"id": 2, "remote_address": address, "remote_port": 5000, "rx_octets": 8},
        {"id": 3, "remote_address": address, "remote_port": 5001},
        {"id": 4, "remote_address": "192.0.2.9", "remote_port": 5000},
    ]
    assert ids(own.take_out(batch(*rows))) == [3, 4]
    assert own.statistics.octets == 8


def test_loopback_is_a_namespaces_own() -> None:
    own = OwnTraffic(OwnerTable(), netns=1)
    own.remember([("127.0.0.1", 5000, 17)], 0.0)
    end = {"remote_address": "127.0.0.1", "remote_port": 5000}
    assert ids(own.take_out(batch({"id": 1, "netns": 1, **end}, {"id": 2, "netns": 2, **end}))) == [
        2
    ]


def test_addresses_are_forgotten() -> None:
    own = OwnTraffic(OwnerTable())
    own.remember([("192.0.2.1", 5000, 17)], 0.0)
    own.remember([("192.0.2.1", 5001, 17)], 60.0)
    end = {"remote_address": "192.0.2.1", "remote_port": 5000}
    assert ids(own.take_out(batch({"id": 1, **end}))) == [1]


def test_empty_batch() -> None:
    assert ids(OwnTraffic(OwnerTable()).take_out(batch())) == []


@pytest.mark.parametrize("protocol", [6, 17])
def test_the_same_port_of_another_protocol_is_somebody_elses(protocol: int) -> None:
    """Another program's TCP connection may have the number of our UDP socket."""
    own = OwnTraffic(OwnerTable())
    own.remember([("127.0.0.1", 45745, protocol)], 0.0)
    end = {"local_address": "127.0.0.1", "local_port": 45745}
    peer = {"remote_address": "127.0.0.1", "remote_port": 45745}
    rows = [
        {"id": 10 * number + at, "protocol": number, **side}
        for number in (6, 17)
        for at, side in enumerate((end, peer))
    ]
    others = 23 - protocol
    assert ids(own.take_out(batch(*rows))) == [10 * others, 10 * others + 1]


def test_a_port_that_we_have_left_is_of_who_got_it_then() -> None:
    """While a collector is down, each attempt to connect takes another port."""
    own = OwnTraffic(OwnerTable())
    own.remember([("127.0.0.1", 5000, 6)], 100.0)
    own.remember([("127.0.0.1", 5001, 6)], 103.0)
    ours = {"local_address": "127.0.0.1", "local_port": 5000, "protocol": 6}
    rows = [
        {"id": 1, "start_ns": 99 * 10**9, **ours},  # our own, reported late
        {"id": 2, "start_ns": 102 * 10**9, **ours},
        {"id": 3, "start_ns": 104 * 10**9, **ours, "local_port": 5001},  # still ours
    ]
    assert ids(own.take_out(batch(*rows))) == [2]
