"""Tests flows, packets and octets against nft's counters, for all ways to begin and end."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest

from probe.flow.codes import Mark
from probe.flow.rows import Rows
from tests.support.lab.hosts import Counted, Host
from tests.support.meters.ebpf import Meter

TCP, UDP = 6, 17
CONNECTIONS = 10_000


def sums(rows: Rows) -> tuple[int, Counted, Counted]:
    """Returns (number of flow ends, sent, received)."""
    sent = Counted(int(rows["tx_packets"].sum()), int(rows["tx_octets"].sum()))
    received = Counted(int(rows["rx_packets"].sum()), int(rows["rx_octets"].sum()))
    return len(np.unique(rows["id"])), sent, received


def within(measured: int, truth: int, share: float) -> bool:
    return abs(measured - truth) <= share * truth


def assert_within(measured: Counted, truth: Counted, packets: float, octets: float) -> None:
    assert truth.packets
    assert within(measured.packets, truth.packets, packets), (measured, truth)
    assert within(measured.octets, truth.octets, octets), (measured, truth)


def exchange(
    meter: Meter, hosts: tuple[Host, Host], six: bool, serve: Sequence[object],
    client: Sequence[object], settle: float = 0.8,
) -> None:  # fmt: skip
    """Runs a server on the second host and a client on the first.

    Reads while they run and afterwards.
    """
    here, there = hosts
    there.start_traffic(serve[0], 7000, *serve[1:], *(["--six"] if six else []))
    meter.forget()
    for host in hosts:
        host.reset_counters()
    running = here.begin_traffic(client[0], there.six if six else there.four, *client[1:])
    while running.poll() is None:
        time.sleep(0.2)
        meter.read()
    assert running.returncode == 0
    time.sleep(settle)
    meter.read()
    there.stop()
    time.sleep(0.1)
    meter.read()


CLOSES = {
    "client first": (("serve",), ("--close", "first")),
    "server first": (("serve", "--close", "first"), ("--close", "last")),
    "server late": (("serve", "--close", "late"), ("--close", "first")),
    "client resets": (("serve",), ("--close", "reset")),
    "server resets": (("serve", "--close", "reset"), ("--close", "last")),
}


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("close", CLOSES)
def test_short_connections(meter: Meter, hosts: tuple[Host, Host], close: str, six: bool) -> None:
    serve, options = CLOSES[close]
    count = CONNECTIONS if not six else 2000
    exchange(meter, hosts, six, serve, ("short", 7000, count, "--parallel", 4, *options))
    for host in hosts:
        flows, sent, received = sums(meter.of(host, TCP))
        truth = host.counted()
        assert flows == count
        assert_within(sent, truth["tcp_out"], 0.005, 0.005)
        assert_within(received, truth["tcp_in"], 0.005, 0.005)
    assert meter.collector.losses()["flow_ring_full"] == 0


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_bulk(meter: Meter, hosts: tuple[Host, Host], six: bool) -> None:
    exchange(meter, hosts, six, ("sink",), ("bulk", 7000, 100_000_000))
    here, there = hosts
    flows, sent, _ = sums(meter.of(here, TCP))
    # data is segmented on its way over the veth, and the receiver's nft sees each segment
    truth = there.counted()["tcp_in"]
    assert flows == 1
    assert_within(sent, truth, 0.001, 0.001)
    _, _, received = sums(meter.of(there, TCP))
    assert_within(received, truth, 0.001, 0.001)


def test_bulk_with_one_percent_loss(meter: Meter, hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    for host in hosts:
        host.lose(10)
    exchange(meter, hosts, False, ("sink",), ("bulk", 7000, 50_000_000))
    _, sent, received = sums(meter.of(here, TCP))
    truth = here.link()
    assert_within(sent, truth["out"], 0.005, 0.01)
    assert within(received.packets, here.counted()["tcp_in"].packets, 0.005)
    _, _, arrived = sums(meter.of(there, TCP))
    assert_within(arrived, there.counted()["tcp_in"], 0.005, 0.01)
    assert meter.of(here, TCP)["retransmitted"].sum() > 0


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("mode", [(), ("--unconnected",)], ids=["connected", "unconnected"])
def test_udp(meter: Meter, hosts: tuple[Host, Host], six: bool, mode: tuple[str, ...]) -> None:
    exchange(meter, hosts, six, ("udp-serve",), ("udp", 7000, 2000, 100, 5, *mode))
    for host in hosts:
        flows, sent, received = sums(meter.of(host, UDP))
        truth = host.counted()
        assert flows == 5
        assert (sent, received) == (truth["udp_out"], truth["udp_in"])


def test_one_socket_with_fifty_peers(meter: Meter, hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    for port in range(8000, 8050):
        there.start_traffic("udp-serve", port)
    meter.forget()
    for host in hosts:
        host.reset_counters()
    here.traffic("udp-many", there.four, 8000, 50, 1000, 200)
    meter.read()
    for host in hosts:
        flows, sent, received = sums(meter.of(host, UDP))
        truth = host.counted()
        assert flows == 50
        assert (sent, received) == (truth["udp_out"], truth["udp_in"])


def test_fragmented_datagram_is_one_packet(meter: Meter, hosts: tuple[Host, Host]) -> None:
    exchange(meter, hosts, False, ("udp-serve",), ("udp", 7000, 10, 4000, 1))
    for host in hosts:
        _, sent, received = sums(meter.of(host, UDP))
        assert sent == received == Counted(10, 10 * 4028)


def test_estimates_are_marked(meter: Meter, hosts: tuple[Host, Host]) -> None:
    """The peer closes after we have left FIN_WAIT2, so its FIN and our last ACK are estimated."""
    exchange(meter, hosts, False, ("serve", "--close", "late"), ("short", 7000, 10))
    assert (meter.of(hosts[0], TCP)["mark"] & Mark.ESTIMATED).sum() == 10 * Mark.ESTIMATED
    for host in hosts:
        host.stop()
    exchange(
        meter, hosts, False, ("serve", "--close", "first"), ("short", 7000, 10, "--close", "last")
    )
    assert len(np.unique(meter.of(hosts[0], TCP)["id"])) == 10
    assert not (meter.of(hosts[0], TCP)["mark"] & Mark.ESTIMATED).any()
