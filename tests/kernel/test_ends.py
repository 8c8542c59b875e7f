"""Both ends of a connection: joined where they are one, each direction once, never mixed up."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from lab import Counted, Host, two_hosts
from metering import (
    BACK,
    FORWARD,
    TCP,
    UDP,
    Actor,
    MeteringProcess,
    actors,
    metering,
    start,
    translated_hosts,
)

from probe.flow.batch import EndReason, OwnerSource, Rows

SYN_ACK_FIN = 0x02 | 0x10 | 0x01
REMOTE, LOCAL = 0, 1  # flow_direction by where the sender is

#: To the address of the router: to the server, which sees the router as its client.
NAT = """
table ip translation {
  chain to { type nat hook prerouting priority -100;
    ip daddr 10.77.1.254 meta l4proto { tcp, udp } dnat to 10.77.2.2:7000; }
  chain from { type nat hook postrouting priority 100;
    oifname "r2" meta l4proto { tcp, udp } masquerade to :40000-41000; }
}
"""


@pytest.fixture
def process() -> Iterator[MeteringProcess]:
    with metering() as found:
        yield found


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    with two_hosts("se") as found:
        yield found


@pytest.fixture(scope="module")
def other_pair() -> Iterator[tuple[Host, Host]]:
    """With the addresses of ``pair``."""
    with two_hosts("sg") as found:
        yield found


@pytest.fixture(scope="module")
def translated() -> Iterator[tuple[Host, Host]]:
    with translated_hosts("sn", NAT) as found:
        yield found


def listen(server: Actor, address: str, port: int = 0) -> int:
    """The port."""
    six = ":" in address
    found: int = server.do(
        f"l = socket.create_server(({address!r}, {port}), backlog=64, "
        f"family=socket.{'AF_INET6' if six else 'AF_INET'})\nresult = l.getsockname()[1]"
    )
    return found


def connect(client: Actor, server: Actor, address: str, port: int, source: int = 0) -> None:
    bound = f", source_address=('', {source})" if source else ""
    client.do(f"s = socket.create_connection(({address!r}, {port}), 5{bound})")
    server.do("c, _ = l.accept()")


def exchange(client: Actor, server: Actor, there: int, back: int) -> None:
    """Sends octets to and fro, and reads them."""
    for sender, name, receiver, other, octets in (
        (client, "s", server, "c", there), (server, "c", client, "s", back),
    ):  # fmt: skip
        sender.do(f"{name}.sendall(b'x' * {octets})")
        receiver.do(f"left = {octets}\nwhile left: left -= len({other}.recv(left))")


def close(client: Actor, server: Actor) -> None:
    client.do("s.close()")
    server.do("c.recv(1); c.close()")


def udp_socket(actor: Actor, port: int, address: str = "", name: str = "u") -> None:
    actor.do(
        f"{name} = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"{name}.settimeout(5); {name}.bind(({address!r}, {port}))"
    )


def of_port(process: MeteringProcess, port: int) -> Rows:
    """Records of the tests' own namespace."""
    records = process.records
    wanted = (records["source_port"] == port) | (records["destination_port"] == port)
    netns = process.collector.host_netns
    found: Rows = records[
        wanted & ((records["source_netns"] == netns) | (records["destination_netns"] == netns))
    ]
    return found


def by_source_pid(process: MeteringProcess, records: Rows) -> dict[int | None, np.void]:
    found = {process.pids(record)[0]: record for record in records}
    assert len(found) == len(records)
    return found


def counted(records: Rows) -> Counted:
    return Counted(int(records["packets"].sum()), int(records["octets"].sum()))


def sent_by(process: MeteringProcess, records: Rows, pid: int) -> Rows:
    pids = [process.pids(record)[0] for record in records]
    found: Rows = records[np.array([one == pid for one in pids], bool)]
    return found


def address_of(record: np.void, side: str) -> str:
    octets = bytes(record[f"{side}_address"])
    return str(ipaddress.ip_address(octets[: 4 if record["ip_version"] == 4 else 16]))


def assert_within(measured: Counted, truth: Counted, share: float) -> None:
    assert truth.packets
    assert abs(measured.packets - truth.packets) <= share * truth.packets, (measured, truth)
    assert abs(measured.octets - truth.octets) <= share * truth.octets, (measured, truth)


def assert_one_connection(
    process: MeteringProcess, records: Rows, client: Actor, server: Actor
) -> tuple[np.void, np.void]:
    """Exactly one record each way, with both owners on both; (there, back)."""
    assert len(records) == 2
    found = by_source_pid(process, records)
    there, back = found[client.pid], found[server.pid]
    assert process.pids(there) == (client.pid, server.pid)
    assert process.pids(back) == (server.pid, client.pid)
    assert (there["biflow_direction"], back["biflow_direction"]) == (FORWARD, BACK)
    assert there["flow_direction"] == back["flow_direction"] == LOCAL
    assert there["flow_id"] == back["flow_id"]
    return there, back


# -- TCP ---------------------------------------------------------------------------------------
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
    # what arrives is what was sent, segmented
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
    assert back["octets"] == back["packets"] * (header + 32) + 8 + 1  # the SYN-ACK is 8 longer


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
    """Four thousand records, whoever closes, read while they come and go."""
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


def test_bulk_counts_the_sender(process: MeteringProcess, pair: tuple[Host, Host]) -> None:
    here, there = pair
    server = there.start_traffic("sink", 7000)
    process.tick()
    for host in pair:
        host.reset_counters()
    here.traffic("bulk", there.four, 7000, 50_000_000)
    process.tick_for(0.4)
    there.stop()
    records = process.of(pair, TCP)
    assert len(records) == 2
    back = sent_by(process, records, server.pid)
    to = records[records["source_owner"] != back["source_owner"]]
    assert_within(counted(to), there.counted()["tcp_in"], 0.001)
    # where the veth's queue overflowed, SACK blocks make some ACKs longer by an estimate
    share = 0.05 if to["retransmitted"].any() else 0.001
    assert_within(counted(back), there.counted()["tcp_out"], share)


def test_a_peer_that_closes_late(process: MeteringProcess, pair: tuple[Host, Host]) -> None:
    """The entry leaves a second after the first close; its other end yields no second record."""
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


# -- UDP ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("host", [0, None], ids=["namespace", "host"])
def test_udp_on_loopback(
    process: MeteringProcess, pair: tuple[Host, Host], host: int | None
) -> None:
    where = None if host is None else pair[host]
    with actors(where, where) as (client, server):
        udp_socket(client, 0, "127.0.0.1")
        udp_socket(server, 0, "127.0.0.1")
        port = server.do("result = u.getsockname()[1]")
        client.do(f"u.connect(('127.0.0.1', {port})); u.send(b'x' * 10)")
        server.do("data, peer = u.recvfrom(99); u.sendto(data * 3, peer)")
        client.do("u.recv(99)")
        process.tick()
    process.tick_for(0.3)
    records = of_port(process, port) if where is None else process.of([where], UDP)
    to, back = assert_one_connection_udp(process, records, client, server)
    assert (to["octets"], to["packets"], back["octets"], back["packets"]) == (38, 1, 58, 1)


def assert_one_connection_udp(
    process: MeteringProcess, records: Rows, client: Actor, server: Actor
) -> tuple[np.void, np.void]:
    assert len(records) == 2
    found = by_source_pid(process, records)
    there, back = found[client.pid], found[server.pid]
    assert process.pids(there) == (client.pid, server.pid)
    assert process.pids(back) == (server.pid, client.pid)
    assert there["flow_direction"] == back["flow_direction"] == LOCAL
    return there, back


@pytest.mark.parametrize("mode", [(), ("--unconnected",)], ids=["connected", "unconnected"])
def test_twenty_clients_of_a_server_bound_to_any_address(
    process: MeteringProcess, pair: tuple[Host, Host], mode: Sequence[str]
) -> None:
    here, there = pair
    server = there.start_traffic("udp-serve", 7000)
    process.tick()
    for host in pair:
        host.reset_counters()
    here.traffic("udp", there.four, 7000, 400, 100, 20, *mode)
    process.tick_for(1.5)
    truth = {host.name: host.counted()["udp_out"] for host in pair}
    there.stop()
    process.flush()
    records = process.of(pair, UDP)
    assert len(records) == 40
    assert set(records["packets"].tolist()) == {20}
    assert all(None not in process.pids(record) for record in records)
    back = sent_by(process, records, server.pid)
    assert len(back) == 20
    assert {address_of(record, "source") for record in back} == {str(there.four)}
    assert counted(back) == truth[there.name]
    assert counted(records[records["source_port"] != 7000]) == truth[here.name]


def test_one_socket_with_thirty_peers(process: MeteringProcess, pair: tuple[Host, Host]) -> None:
    here, there = pair
    servers = {there.start_traffic("udp-serve", port).pid for port in range(8000, 8030)}
    client = start(here, "udp-many", there.four, 8000, 30, 300, 50)
    client.wait()
    process.tick_for(1.5)
    there.stop()
    process.flush()
    records = process.of(pair, UDP)
    assert len(records) == 60
    assert set(records["packets"].tolist()) == {10}
    pids = {process.pids(record) for record in records}
    assert pids == {(client.pid, one) for one in servers} | {(one, client.pid) for one in servers}


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_a_socket_that_talks_to_itself(
    process: MeteringProcess, pair: tuple[Host, Host], protocol: int
) -> None:
    """One end that sends and receives; what it sent is told once."""
    kind = "STREAM" if protocol == TCP else "DGRAM"
    with actors(pair[0]) as (lonely,):
        lonely.do(
            f"s = socket.socket(socket.AF_INET, socket.SOCK_{kind})\n"
            "s.bind(('127.0.0.1', 0)); s.connect(s.getsockname())\n"
            "for _ in range(3): s.send(b'x' * 100); s.recv(100)\n"
            "s.close()"
        )
        process.tick_for(1.5)
    process.flush()
    (record,) = process.of(pair[:1], protocol)
    assert process.pids(record)[0] == lonely.pid
    assert record["source_port"] == record["destination_port"]
    if protocol == UDP:
        assert (record["packets"], record["octets"]) == (3, 3 * 128)


def test_udp_through_address_translation_is_not_guessed(
    process: MeteringProcess, translated: tuple[Host, Host]
) -> None:
    """No address in common: each end tells of both directions, and knows itself only."""
    with actors(*translated) as (client, server):
        udp_socket(server, 7000)
        udp_socket(client, 0)
        client.do("u.sendto(b'x', ('10.77.1.254', 53))")
        server.do("data, peer = u.recvfrom(9); u.sendto(data, peer)")
        client.do("u.recv(9)")
        process.tick()
    process.flush()
    records = process.of(translated, UDP)
    found = [(*process.pids(record), int(record["flow_direction"])) for record in records]
    assert sorted(found, key=str) == sorted(
        [(client.pid, None, LOCAL), (None, client.pid, REMOTE),
         (server.pid, None, LOCAL), (None, server.pid, REMOTE)],
        key=str,
    )  # fmt: skip


@pytest.mark.parametrize("staggered", [False, True], ids=["at once", "one after the other"])
def test_isolated_udp_with_equal_addresses_and_ports(
    process: MeteringProcess, pair: tuple[Host, Host], other_pair: tuple[Host, Host],
    staggered: bool,
) -> None:  # fmt: skip
    with actors(*pair, *other_pair) as (a, b, c, d):
        couples = ((a, b), (c, d))
        for client, server in couples:
            udp_socket(server, 7000)
            udp_socket(client, 5555)
        for _ in range(3):
            for client, server in couples:
                client.do(f"u.sendto(b'x', ({str(pair[1].four)!r}, 7000))")
                server.do("data, peer = u.recvfrom(9); u.sendto(data, peer)")
                client.do("u.recv(9)")
                if staggered:
                    process.tick()
            process.tick()
    process.tick_for(0.3)
    process.flush()
    records = process.of([*pair, *other_pair], UDP)
    assert len(records) >= 4
    allowed = [{a.pid, b.pid}, {c.pid, d.pid}]
    for record in records:
        known = {pid for pid in process.pids(record) if pid is not None}
        assert known
        assert any(known <= couple for couple in allowed), (known, allowed)
    for actor in (a, b, c, d):
        assert counted(sent_by(process, records, actor.pid)) == Counted(3, 3 * 29)


def test_isolated_udp_ends_that_talk_to_nobody(
    process: MeteringProcess, pair: tuple[Host, Host], other_pair: tuple[Host, Host]
) -> None:
    """One host's client and the other's server: reversed addresses, but not one flow."""
    with actors(pair[0], other_pair[1]) as (client, server):
        udp_socket(client, 5555)
        udp_socket(server, 7000)
        for _ in range(5):
            client.do(f"u.sendto(b'x', ({str(pair[1].four)!r}, 7000))")
            server.do(f"u.sendto(b'x', ({str(pair[0].four)!r}, 5555))")
            process.tick()
    process.tick_for(0.2)
    process.flush()
    records = process.of([pair[0], other_pair[1]], UDP)
    assert sorted(process.pids(record)[0] or 0 for record in records) == sorted(
        [client.pid, server.pid]
    )
    assert {process.pids(record)[1] for record in records} == {None}


# -- time --------------------------------------------------------------------------------------
def test_active_timeout(pair: tuple[Host, Host]) -> None:
    """The parts of a long flow follow one another and add up."""
    with metering(active_s=1) as process, actors(*pair) as (client, server):
        connect(client, server, str(pair[1].four), listen(server, "0.0.0.0"))
        for _ in range(17):
            exchange(client, server, 1000, 10)
            process.tick_for(0.2)
        close(client, server)
        process.tick_for(0.3)
        records = process.of(pair, TCP)
        to = sent_by(process, records, client.pid)
        parts = len(to)
        assert parts >= 4
        assert to["end_reason"].tolist() == [
            *[EndReason.ACTIVE_TIMEOUT] * (parts - 1),
            EndReason.END_OF_FLOW,
        ]
        assert len(sent_by(process, records, server.pid)) == parts
        # each record's wall clock is that of its export
        assert (abs(to["first_ns"][1:] - to["last_ns"][:-1]) < 1_000_000).all()
        assert len(np.unique(records["flow_id"])) == 1
        assert 17_000 + 52 * 17 < to["octets"].sum() < 17_000 + 52 * 17 * 3


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_idle_timeout(pair: tuple[Host, Host], protocol: int) -> None:
    """What comes after the silence is a new record without the old totals."""
    with metering(idle_s=1) as process, actors(*pair) as (client, server):
        if protocol == TCP:
            connect(client, server, str(pair[1].four), listen(server, "0.0.0.0"))
        else:
            udp_socket(server, 7000, name="c")
            udp_socket(client, 0, name="s")
            client.do(f"s.connect(({str(pair[1].four)!r}, 7000)); s.send(b'x')")
            server.do("_, peer = c.recvfrom(9); c.connect(peer)")
        for octets in (1000, 3000):
            exchange(client, server, octets, 10) if protocol == TCP else datagrams(
                client, server, octets // 1000
            )
            process.tick_for(1.5)
        records = process.of(pair, protocol)
        assert set(records["end_reason"].tolist()) == {EndReason.IDLE_TIMEOUT}
        to = sent_by(process, records, client.pid)
        assert len(to) == 2
        first, second = to
        assert second["first_ns"] >= first["last_ns"]
        if protocol == TCP:
            assert 3000 < second["octets"] < 3400
        else:
            assert (first["packets"], second["packets"]) == (2, 3)
        assert len(records) == 4 if protocol == TCP else len(records) == 2
        assert {process.pids(record) for record in to} == {(client.pid, server.pid)}


def datagrams(client: Actor, server: Actor, count: int) -> None:
    for _ in range(count):
        client.do("s.send(b'x')")
        server.do("c.recv(9)")


def test_a_restart_does_not_export_old_totals_again(pair: tuple[Host, Host]) -> None:
    with actors(*pair) as (client, server):
        with metering() as process:
            connect(client, server, str(pair[1].four), listen(server, "0.0.0.0"))
            exchange(client, server, 100_000, 50_000)
            process.tick()
            process.flush()
            first = process.of(pair, TCP)
            assert set(first["end_reason"].tolist()) == {EndReason.FORCED_END}
            assert_one_connection(process, first, client, server)
            end = int(first["last_ns"].max())
        with metering() as process:
            exchange(client, server, 1000, 2000)
            process.tick()
            process.flush()
            records = process.of(pair, TCP)
            assert len(records) == 2
            found = by_source_pid(process, records)
            to, back = found[client.pid], found[server.pid]
            assert process.pids(to) == (client.pid, server.pid)
            assert 1000 < to["octets"] < 1500
            assert 2000 < back["octets"] < 2500
            assert to["first_ns"] >= end
            assert to["biflow_direction"] in (0, FORWARD)
            assert to["source_owner_source"] == OwnerSource.DESCRIPTOR
