"""Tests ``python -m probe run`` with ``python -m probe collect --json``: what arrives."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.support.lab.hosts import Host, two_hosts
from tests.support.meters.actors import Actor, actors
from tests.support.meters.shell import Record, Shells, shells

PORT = 7000
FORCED_END, END_OF_FLOW = 4, 3


@pytest.fixture
def shell() -> Iterator[Shells]:
    with shells() as found:
        yield found


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    with two_hosts("sh") as found:
        yield found


def inode(host: Host) -> int:
    return os.stat(f"/run/netns/{host.name}").st_ino


def of(records: list[Record], *hosts: Host) -> list[Record]:
    """Returns the records of sockets in the hosts' namespaces."""
    inodes = {inode(host) for host in hosts}
    return [
        record
        for record in records
        if inodes
        & {record["sourceNetworkNamespaceInode"], record["destinationNetworkNamespaceInode"]}
    ]


def connect(client: Actor, server: Actor, address: str, port: int = PORT) -> None:
    server.do(f"l = socket.create_server(('', {port}))")
    client.do(f"s = socket.create_connection(({address!r}, {port}), 5)")
    server.do("c, _ = l.accept()")


def exchange(client: Actor, server: Actor, octets: int) -> None:
    """Sends ``octets``, and twice as many back."""
    client.do(f"s.sendall(b'x' * {octets})")
    server.do(f"left = {octets}\nwhile left: left -= len(c.recv(left))")
    server.do(f"c.sendall(b'x' * {2 * octets})")
    client.do(f"left = {2 * octets}\nwhile left: left -= len(s.recv(left))")


def ask(client: Actor, server: Actor, address: str, port: int, times: int) -> None:
    """Sends UDP datagrams there and back."""
    server.do(f"v = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); v.bind(('', {port}))")
    client.do("u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
    for _ in range(times):
        client.do(f"u.sendto(b'x', ({address!r}, {port}))")
        server.do("data, peer = v.recvfrom(9); v.sendto(data, peer)")
        client.do("u.recv(9)")


# -- from the socket to the collector ----------------------------------------------------------
def test_sigterm_exports_what_is_left(shell: Shells, pair: tuple[Host, Host]) -> None:
    found = shell("--odid", "7")
    with actors(*pair) as (client, server):
        connect(client, server, str(pair[1].four))
        exchange(client, server, 1000)
        records = of(found.finish(), *pair)
    assert len(records) == 2
    (to,) = (record for record in records if record["destinationTransportPort"] == PORT)
    (back,) = (record for record in records if record["sourceTransportPort"] == PORT)
    for record in records:
        assert record["flowEndReason"] == FORCED_END
        assert record["flowDirection"] == 1
        assert record["protocolIdentifier"] == 6
        now = time.time() * 1000
        assert 0 < record["flowStartMilliseconds"] <= record["flowEndMilliseconds"] <= now
    assert to["sourceIPv4Address"] == back["destinationIPv4Address"] == str(pair[0].four)
    assert (to["SRC_PROC_PID"], to["DST_PROC_PID"]) == (client.pid, server.pid)
    assert (back["SRC_PROC_PID"], back["DST_PROC_PID"]) == (server.pid, client.pid)
    assert (to["biflowDirection"], back["biflowDirection"]) == (1, 2)
    assert to["SRC_PROC_USER_NAME"] == "root"
    assert to["tcpState"] == "ESTABLISHED"
    assert 1000 < to["octetDeltaCount"] < 2000 < back["octetDeltaCount"] < 3000
    assert "lost: nothing" in found.summary


def test_a_restart_does_not_export_old_totals(shell: Shells, pair: tuple[Host, Host]) -> None:
    octets = []
    with actors(*pair) as (client, server):
        connect(client, server, str(pair[1].four))
        for amount in (50_000, 1000):
            found = shell()
            exchange(client, server, amount)
            records = of(found.finish(), *pair)
            assert len(records) == 2
            assert {record["flowEndReason"] for record in records} == {FORCED_END}
            (to,) = (record for record in records if record["destinationTransportPort"] == PORT)
            assert (to["SRC_PROC_PID"], to["DST_PROC_PID"]) == (client.pid, server.pid)
            octets.append((to["octetDeltaCount"], to["flowStartMilliseconds"]))
    assert octets[0][0] > 50_000
    assert 1000 < octets[1][0] < 1500
    assert octets[1][1] > octets[0][1]


def test_a_connection_that_ends_is_exported_while_the_probe_runs(
    shell: Shells, pair: tuple[Host, Host]
) -> None:
    found = shell("--interval", "0.2")
    with actors(*pair) as (client, server):
        connect(client, server, str(pair[1].four))
        exchange(client, server, 1000)
        client.do("s.close()")
        server.do("c.recv(1); c.close()")
        time.sleep(0.8)
    records = of(found.finish(), *pair)
    assert [record["flowEndReason"] for record in records] == [END_OF_FLOW] * 2
    assert {record["tcpControlBits"] for record in records} == {0x13}


def test_the_duration_ends_it(shell: Shells, pair: tuple[Host, Host]) -> None:
    found = shell("--duration", "1.5")
    with actors(*pair) as (client, server):
        connect(client, server, str(pair[1].four))
        exchange(client, server, 1000)
        found.probe.process.wait(120)
        assert len(of(found.finish(), *pair)) == 2


# -- own traffic -------------------------------------------------------------------------------
def test_the_export_is_no_flow(shell: Shells, pair: tuple[Host, Host]) -> None:
    """Neither our socket nor the collector's on the same host makes a flow."""
    found = shell("--active-timeout", "1", "--interval", "0.1")
    with actors(*pair) as (client, server):
        connect(client, server, str(pair[1].four))
        for _ in range(30):
            exchange(client, server, 100)
            time.sleep(0.1)
        records = found.finish()
    assert len(of(records, *pair)) >= 2
    ports = [(record["sourceTransportPort"], record["destinationTransportPort"])
             for record in records if record["protocolIdentifier"] == 17]  # fmt: skip
    assert not [pair for pair in ports if found.port in pair]
    own = {found.probe.process.pid, found.collector.process.pid}
    assert not [
        record for record in records if own & {record["SRC_PROC_PID"], record["DST_PROC_PID"]}
    ]
    assert found.own_packets() >= 3


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_the_export_to_another_namespace_is_no_flow(
    shell: Shells, pair: tuple[Host, Host], six: bool
) -> None:
    """The collector is in a container of this host."""
    here, there = pair
    at = f"[{there.six}]" if six else str(there.four)
    found = shell("--active-timeout", "1", "--interval", "0.1", probe=here, sink=there, at=at)
    with actors(*pair) as (client, server):
        connect(client, server, str(there.four))
        for _ in range(20):
            exchange(client, server, 100)
            time.sleep(0.1)
        records = of(found.finish(), *pair)
    assert len(records) >= 2
    assert {record["protocolIdentifier"] for record in records} == {6}
    assert found.own_packets() >= 2


# -- filters -----------------------------------------------------------------------------------
PORTS = {7000, 7001, 7002}
TRAFFIC = {"tcp 7000", "tcp 7001", "udp 7000", "udp 7002"}
FILTERS = {
    "include a port": (("--include", "port=7000"), {"tcp 7000", "udp 7000"}),
    "include ports": (("--include", "port=7001-7002"), {"tcp 7001", "udp 7002"}),
    "exclude a port": (("--exclude", "port=7000"), {"tcp 7001", "udp 7002"}),
    "include a protocol": (("--include", "protocol=udp"), {"udp 7000", "udp 7002"}),
    "exclude a protocol": (("--exclude", "protocol=udp"), {"tcp 7000", "tcp 7001"}),
    "both must hold": (("--include", "protocol=tcp,port=7000"), {"tcp 7000"}),
    "either suffices": (
        ("--include", "port=7001", "--include", "port=7002"),
        {"tcp 7001", "udp 7002"},
    ),
    "exclude of what is included": (
        ("--include", "port=7000-7002", "--exclude", "protocol=tcp"),
        {"udp 7000", "udp 7002"},
    ),
    "include addresses": (("--include", "cidr=10.77.0.0/24"), TRAFFIC),
    "exclude addresses": (("--exclude", "cidr=10.77.0.2/32"), set()),
    "include a process": (("--include", "process=chosen"), TRAFFIC),
    "exclude a process": (("--exclude", "process=chosen"), set()),
    "include a user": (("--include", "user=nobody"), TRAFFIC),
    "include a uid": (("--include", "user=65534"), TRAFFIC),
    "exclude a user": (("--exclude", "user=nobody"), set()),
}


def service(record: Record) -> str:
    """Returns the flow's protocol and port, as in TRAFFIC."""
    protocol = {6: "tcp", 17: "udp"}[record["protocolIdentifier"]]
    ports = {record["sourceTransportPort"], record["destinationTransportPort"]}
    return f"{protocol} {min(ports & PORTS)}"


@pytest.mark.parametrize("how", FILTERS)
def test_filters(shell: Shells, pair: tuple[Host, Host], how: str) -> None:
    """Every packet is either in a record or counted as left out."""
    options, expected = FILTERS[how]
    with actors(*pair) as (client, server):
        for actor in (client, server):
            actor.do("open('/proc/self/comm', 'w').write('chosen')\nimport os; os.setuid(65534)")
        found = shell(*options)
        for host in pair:
            host.reset_counters()
        for port in (7000, 7001):
            connect(client, server, str(pair[1].four), port)
            exchange(client, server, 10)
            client.do("s.close()")
            server.do("c.recv(1); c.close(); l.close()")
        for port, times in ((7000, 3), (7002, 5)):
            ask(client, server, str(pair[1].four), port, times)
            client.do("u.close()")
            server.do("v.close()")
        truth = pair[0].counted()
        records = of(found.finish(), *pair)
    assert {service(record) for record in records} == expected
    assert len(records) == 2 * len(expected)
    ends, packets = found.left_out()
    exported = sum(record["packetDeltaCount"] for record in records)
    seen = sum(truth[name].packets for name in truth)
    # both ends are excluded, so each packet counts twice; other sockets of the host count, too
    assert ends >= 2 * (len(TRAFFIC) - len(expected))
    assert packets >= 2 * (seen - exported)


def test_rules_see_one_end_at_a_time(shell: Shells, pair: tuple[Host, Host]) -> None:
    """The server's end passes and reports both directions. It does not know its peer."""
    with actors(*pair) as (client, server):
        server.do("open('/proc/self/comm', 'w').write('chosen')")
        found = shell("--include", "process=chosen,cidr=10.77.0.0/24")
        connect(client, server, str(pair[1].four))
        exchange(client, server, 10)
        records = of(found.finish(), *pair)
    assert sorted(
        (record["SRC_PROC_NAME"], record["DST_PROC_NAME"], record["flowDirection"])
        for record in records
    ) == [("", "chosen", 0), ("chosen", "", 1)]
    assert found.left_out() >= (1, 5)
