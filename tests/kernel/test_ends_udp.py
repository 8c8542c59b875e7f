"""Tests both ends of UDP flows: they are joined, except where this cannot be known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from probe.flow.rows import Rows
from tests.support.lab.hosts import Counted, Host
from tests.support.meters.actors import (
    TCP,
    UDP,
    Actor,
    MeteringProcess,
    actors,
    start,
)
from tests.support.meters.ends import (
    LOCAL,
    REMOTE,
    address_of,
    by_source_pid,
    counted,
    of_port,
    sent_by,
    udp_socket,
)


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
    """One end sends and receives, and what it sent is reported once."""
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
    """The ends have no address in common. Each reports both directions and names only itself."""
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
    """One is a host's client, the other is another host's server.

    Their addresses are reversed, but they are not one flow.
    """
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
