"""Tests both ends of a TCP connection: they are joined, and each direction is counted once."""

from __future__ import annotations

import os

import numpy as np
import pytest

from probe.flow.codes import EndReason, Mark, OwnerSource
from tests.support.lab.hosts import Host
from tests.support.meters.actors import (
    TCP,
    MeteringProcess,
    actors,
    start,
)
from tests.support.meters.ebpf import Meter
from tests.support.meters.ends import (
    address_of,
    assert_one_connection,
    assert_within,
    close,
    connect,
    counted,
    exchange,
    listen,
    of_port,
    sent_by,
)

SYN_ACK_FIN = 0x02 | 0x10 | 0x01


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_one_connection_of_two_hosts(
    process: MeteringProcess, pair: tuple[Host, Host], six: bool
) -> None:
    here, there = pair
    target = str(there.six if six else there.four)
    for host in pair:
        host.reset_counters()
    with actors(here, there) as (client, server):
        port = listen(server, "::" if six else "0.0.0.0")
        connect(client, server, target, port)
        exchange(client, server, 1000, 50_000)
        process.tick()
        close(client, server)
        process.tick_for(0.3)
    to, back = assert_one_connection(process, process.of(pair, TCP), client, server)
    assert to["tcp_flags"] == back["tcp_flags"] == SYN_ACK_FIN
    assert to["end_reason"] == back["end_reason"] == EndReason.END_OF_FLOW
    assert to["destination_port"] == back["source_port"] == port
    assert address_of(to, "destination") == address_of(back, "source") == target
    assert to["source_netns"] == back["destination_netns"] != back["source_netns"]
    assert to["source_owner_source"] == OwnerSource.SOCKET_CALL
    assert to["ingress_interface"] == to["egress_interface"] == 0  # not of the host's namespace
    # received packets are the sent ones, segmented
    assert counted(np.array([to])) == there.counted()["tcp_in"]
    assert counted(np.array([back])) == here.counted()["tcp_in"]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_loopback(process: MeteringProcess, address: str) -> None:
    with actors(None, None) as (client, server):
        port = listen(server, address)
        connect(client, server, address, port)
        exchange(client, server, 1, 1)
        close(client, server)
        process.tick_for(0.3)
    records = of_port(process, port)
    to, back = assert_one_connection(process, records, client, server)
    assert to["egress_interface"] == back["egress_interface"] == 1
    header = 40 if ":" in address else 20
    assert back["octets"] == back["packets"] * (header + 32) + 8 + 1  # the SYN-ACK is longer by 8


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_short_connections_on_loopback_have_its_interface(
    process: MeteringProcess, address: str
) -> None:
    """The connections have all shapes. The snapshot reads half of them while they live."""
    many = 200
    with actors(None, None) as (client, server):
        port = listen(server, address)
        server.do(
            "import threading\n"
            "def serve(l):\n"
            f"    for number in range({2 * many}):\n"
            "        c, _ = l.accept()\n"
            "        if number % 2: c.recv(9)\n"
            "        if number % 4 < 2: c.sendall(b'answer')\n"
            "        c.close()\n"
            "threading.Thread(target=serve, args=(l,), daemon=True).start()"
        )
        for _ in range(2):
            client.do(
                f"for number in range({many}):\n"
                f"    s = socket.create_connection(({address!r}, {port}), 20)\n"
                "    if number % 2: s.sendall(b'ask')\n"
                "    if number % 4 < 2:\n"
                "        while s.recv(9): pass\n"
                "    s.close()"
            )
            process.tick()
        process.tick_for(1.5)
    records = of_port(process, port)
    assert len(np.unique(records["flow_id"])) == 2 * many
    assert set(records["egress_interface"].tolist()) == {1}
    assert set(records["ingress_interface"].tolist()) == {0}


def test_a_process_that_talks_to_itself(process: MeteringProcess, pair: tuple[Host, Host]) -> None:
    with actors(pair[0]) as (both,):
        connect(both, both, "127.0.0.1", listen(both, "127.0.0.1"))
        exchange(both, both, 10, 20)
        close(both, both)
        process.tick_for(0.3)
    records = process.of(pair[:1], TCP)
    assert len(records) == 2
    assert {process.pids(record) for record in records} == {(both.pid, both.pid)}


def test_our_own_sockets_are_none(process: MeteringProcess) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            connection, _ = server.accept()
            client.sendall(b"x" * 100)
            connection.recv(100)
            connection.close()
    process.flush()
    assert not len(of_port(process, port))
    assert process.own.statistics.octets > 100


def test_tcp_through_address_translation(
    process: MeteringProcess, translated: tuple[Host, Host]
) -> None:
    """The two ends have no address and no port in common."""
    with actors(*translated) as (client, server):
        listen(server, "0.0.0.0", 7000)
        connect(client, server, "10.77.1.254", 80)
        exchange(client, server, 1000, 2000)
        close(client, server)
        process.tick_for(0.3)
    to, back = assert_one_connection(process, process.of(translated, TCP), client, server)
    assert (address_of(to, "source"), address_of(to, "destination")) == ("10.77.1.1", "10.77.1.254")
    assert (address_of(back, "source"), back["source_port"]) == ("10.77.2.2", 7000)
    assert address_of(back, "destination") == "10.77.2.254"
    assert to["destination_port"] == 80
    assert 40000 <= back["destination_port"] <= 41000


def test_short_connections_through_address_translation(
    process: MeteringProcess, translated: tuple[Host, Host]
) -> None:
    here, there = translated
    there.start_traffic("serve", 7000)
    process.tick()
    here.traffic("short", "10.77.1.254", 80, 500)
    process.tick_for(1.5)
    there.stop()
    records = process.of(translated, TCP)
    assert len(records) == 1000
    assert all(None not in process.pids(record) for record in records)


CLOSES = {
    "client first": (("serve",), ("--close", "first"), 0.005),
    "server first": (("serve", "--close", "first"), ("--close", "last"), 0.005),
    "server late": (("serve", "--close", "late"), ("--close", "first"), 0.005),
    "client resets": (("serve",), ("--close", "reset"), 0.005),
    "server resets": (("serve", "--close", "reset"), ("--close", "last"), 0.005),
}


@pytest.mark.parametrize("how", CLOSES)
def test_two_thousand_short_connections(
    process: MeteringProcess, pair: tuple[Host, Host], how: str
) -> None:
    """There are four thousand records, whichever end closes.

    Reads happen while connections come and go.
    """
    serve, options, share = CLOSES[how]
    here, there = pair
    server = there.start_traffic(serve[0], 7000, *serve[1:])
    process.tick()
    for host in pair:
        host.reset_counters()
    client = start(here, "short", there.four, 7000, 2000, *options)
    while client.poll() is None:
        process.tick_for(0.2, 0.05)
    process.tick_for(1.6)
    truth = {host.name: host.counted()["tcp_out"] for host in pair}
    there.stop()
    process.flush()
    records = process.of(pair, TCP)
    assert len(records) == 4000
    assert len(np.unique(records["flow_id"])) == 2000
    to, back = sent_by(process, records, client.pid), sent_by(process, records, server.pid)
    assert len(to) == len(back) == 2000
    assert {process.pids(record)[1] for record in to} == {server.pid}
    assert {process.pids(record)[1] for record in back} == {client.pid}
    assert set(records["end_reason"].tolist()) == {EndReason.END_OF_FLOW}
    assert_within(counted(to), truth[here.name], share)
    assert_within(counted(back), truth[there.name], share)


def test_bulk_counts_the_sender(process: MeteringProcess, hosts: tuple[Host, Host]) -> None:
    """SACK is off, because SACK blocks are an estimate.

    The load of this host may delay segments, so TCP sends them again; ACKs would then be longer.
    """
    here, there = hosts
    for host in hosts:
        host.exec("sysctl", "-qw", "net.ipv4.tcp_sack=0")
    server = there.start_traffic("sink", 7000)
    process.tick()
    for host in hosts:
        host.reset_counters()
    here.traffic("bulk", there.four, 7000, 50_000_000)
    process.tick_for(0.4)
    there.stop()
    records = process.of(hosts, TCP)
    assert len(records) == 2
    back = sent_by(process, records, server.pid)
    to = records[records["source_owner"] != back["source_owner"]]
    assert_within(counted(to), there.counted()["tcp_in"], 0.001)
    assert_within(counted(back), there.counted()["tcp_out"], 0.001)


def test_a_peer_that_closes_late(process: MeteringProcess, pair: tuple[Host, Host]) -> None:
    """The entry leaves a second after the first close. The other end makes no second record."""
    with actors(*pair) as (client, server):
        connect(client, server, str(pair[1].four), listen(server, "0.0.0.0"))
        exchange(client, server, 100, 100)
        process.tick()
        client.do("s.close()")
        process.tick_for(4)
        assert_one_connection(process, process.of(pair, TCP), client, server)
        server.do("c.close()")
        process.tick_for(1.5)
    process.flush()
    assert len(process.of(pair, TCP)) == 2


def test_half_a_connection_goes_on(process: MeteringProcess, pair: tuple[Host, Host]) -> None:
    """After shutdown() the socket lives, and what it receives belongs to the flow."""
    with actors(*pair) as (client, server):
        connect(client, server, str(pair[1].four), listen(server, "0.0.0.0"))
        client.do("s.shutdown(socket.SHUT_WR)")
        for _ in range(10):
            server.do("c.sendall(b'x' * 1000)")
            process.tick_for(0.2)
        server.do("c.close()")
        client.do("left = 10_000\nwhile left: left -= len(s.recv(left))\ns.close()")
        process.tick_for(0.3)
    to, back = assert_one_connection(process, process.of(pair, TCP), client, server)
    assert back["octets"] > 10_000 > to["octets"]


def test_isolated_connections_with_equal_addresses_and_ports(
    process: MeteringProcess, pair: tuple[Host, Host], other_pair: tuple[Host, Host]
) -> None:
    with actors(*pair, *other_pair) as (a, b, c, d):
        couples = ((a, b, 1000), (c, d, 5000))
        for client, server, _ in couples:
            listen(server, "0.0.0.0", 7000)
            connect(client, server, str(pair[1].four), 7000, source=5555)
        for client, server, octets in couples:
            exchange(client, server, octets, 2 * octets)
        process.tick()
        for client, server, _ in couples:
            close(client, server)
        process.tick_for(0.3)
    assert len(process.of([*pair, *other_pair], TCP)) == 4
    for hosts, (client, server, octets) in zip((pair, other_pair), couples, strict=True):
        to, back = assert_one_connection(process, process.of(hosts, TCP), client, server)
        assert octets < to["octets"] < 2 * octets < back["octets"] < 3 * octets


def test_the_last_read_waits_for_nobody(meter: Meter, hosts: tuple[Host, Host]) -> None:
    """A connection that its peer has reset is closed, even if its descriptor is still open."""
    with actors(*hosts) as (client, server):
        connect(client, server, str(hosts[1].four), listen(server, "0.0.0.0"))
        exchange(client, server, 1000, 1000)
        client.do("import struct")
        client.do("s.setsockopt(1, socket.SO_LINGER, struct.pack('ii', 1, 0))\ns.close()")
        server.do("try: c.recv(1)\nexcept ConnectionResetError: pass")
        meter.forget()
        rows = meter.collector.read(is_last=True).rows
    wanted = (rows["netns_inode"] == os.stat(f"/run/netns/{hosts[1].name}").st_ino) & (
        rows["mark"] & Mark.CLOSED != 0
    )
    assert np.count_nonzero(wanted) == 1
