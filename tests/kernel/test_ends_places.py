"""Tests Flow Keys that are equal in several namespaces, and datagrams for several sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.lab.hosts import Host, two_hosts
from tests.support.meters.actors import UDP, Actor, MeteringProcess, actors
from tests.support.meters.ends import udp_socket

GROUP = "239.77.1.1"


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    with two_hosts("sj") as found:
        yield found


@pytest.fixture(scope="module")
def other_pair() -> Iterator[tuple[Host, Host]]:
    """Yields two hosts with the addresses of ``pair``."""
    with two_hosts("sl") as found:
        yield found


def talk(client: Actor, server: Actor, address: str, port: int) -> None:
    client.do(f"u.sendto(b'question', ({address!r}, {port}))")
    server.do("data, peer = u.recvfrom(99); u.sendto(b'an answer', peer)")
    client.do("u.recv(99)")


@pytest.mark.parametrize("ticks", [False, True], ids=["in one read", "with reads between"])
def test_each_namespace_has_a_loopback_of_its_own(
    process: MeteringProcess, pair: tuple[Host, Host], other_pair: tuple[Host, Host], ticks: bool
) -> None:
    """Four loopbacks use the same two ports in turn, and not equally often."""
    hosts = [*pair, *other_pair]
    with actors(*hosts) as clients, actors(*hosts) as servers:
        for client, server in zip(clients, servers, strict=True):
            udp_socket(server, 7000, "127.0.0.1")
            udp_socket(client, 5555, "127.0.0.1")
        for _ in range(3):
            for count, (client, server) in enumerate(zip(clients, servers, strict=True), 1):
                for _ in range(count):
                    talk(client, server, "127.0.0.1", 7000)
            if ticks:
                process.tick()
        couples = [(c.pid, s.pid) for c, s in zip(clients, servers, strict=True)]
        process.flush()
    found = sorted((*process.pids(record), int(record["packets"])) for record in
                   process.of(hosts, UDP))  # fmt: skip
    expected = [(c, s, 3 * n) for n, (c, s) in enumerate(couples, 1)]
    assert found == sorted(expected + [(s, c, n) for c, s, n in expected])


def test_equal_addresses_on_isolated_links(
    process: MeteringProcess, pair: tuple[Host, Host], other_pair: tuple[Host, Host]
) -> None:
    with actors(*pair) as (a, b), actors(*other_pair) as (c, d):
        for client, server in ((a, b), (c, d)):
            udp_socket(server, 7000)
            udp_socket(client, 5555)
        for client, server in ((a, b), (c, d), (c, d), (a, b), (c, d)):
            talk(client, server, str(pair[1].four), 7000)
        pids = a.pid, b.pid, c.pid, d.pid
        process.flush()
    found = {(*process.pids(record), int(record["packets"])) for record in
             process.of([*pair, *other_pair], UDP)}  # fmt: skip
    first, second, third, fourth = pids
    assert found == {(first, second, 2), (second, first, 2), (third, fourth, 3), (fourth, third, 3)}


@pytest.mark.parametrize("address", [GROUP, "10.77.0.255"], ids=["multicast", "broadcast"])
def test_what_several_sockets_receive_was_sent_once(
    process: MeteringProcess, pair: tuple[Host, Host], address: str
) -> None:
    """Two receivers are in one namespace, and a third one is beside the sender."""
    here, there = pair
    with actors(here, there, there, here) as (sender, *receivers):
        for receiver, host in zip(receivers, (there, there, here), strict=True):
            receiver.do(
                "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(5)\n"
                "u.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); u.bind(('', 7000))\n"
                f"u.setsockopt(0, socket.IP_ADD_MEMBERSHIP, socket.inet_aton({GROUP!r})"
                f" + socket.inet_aton({str(host.four)!r}))"
            )
        sender.do(
            "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            "u.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)\n"
            f"u.setsockopt(0, socket.IP_MULTICAST_IF, socket.inet_aton({str(here.four)!r}))\n"
            f"u.bind(({str(here.four)!r}, 5555))"
        )
        for _ in range(2):
            sender.do(f"for _ in range(150): u.sendto(b'to all', ({address!r}, 7000))")
            for receiver in receivers:
                receiver.do("for _ in range(150): u.recv(99)")
            process.tick()
        pids = sender.pid, {receiver.pid for receiver in receivers}
        process.flush()
    records = process.of(pair, UDP)
    assert records["packets"].tolist() == [300]
    source, destination = process.pids(records[0])
    assert source == pids[0]
    assert destination in pids[1]
