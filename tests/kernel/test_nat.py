"""Tests records of translated connections against the sockets on both sides of the NAT.

The translator is a network namespace of the tests, which the test enters for look-ups. The host's
own firewall and forwarding stay as they are.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probe.enrich.nat import Nat
from probe.flow.rows import Rows
from tests.support.lab.docker import IMAGE, Docker, docker_daemon
from tests.support.lab.hosts import Host, inside, run, two_hosts
from tests.support.meters.actors import (
    TCP,
    UDP,
    Actor,
    MeteringProcess,
    actors,
    metering,
    translated_hosts,
)

ROUTER = "swr"

#: The router publishes port 80 and hides its clients. Port 81 shows them, and 82 is in a zone.
RULES = """
table ip translation {
  chain zones { type filter hook prerouting priority -300;
    tcp dport 82 ct zone set 7
    tcp sport 7002 ct zone set 7; }
  chain to { type nat hook prerouting priority -100;
    ip daddr 10.77.1.254 meta l4proto { tcp, udp } th dport 80 dnat to 10.77.2.2:7000;
    ip daddr 10.77.1.254 tcp dport 81 dnat to 10.77.2.2:7001;
    ip daddr 10.77.1.254 udp dport 83 dnat to 10.77.2.2:7003;
    ip daddr 10.77.1.254 tcp dport 82 dnat to 10.77.2.2:7002; }
  chain from { type nat hook postrouting priority 100;
    oifname "r2" meta l4proto { tcp, udp } th dport { 7000, 7002 } masquerade to :40000-60000; }
}
"""


@pytest.fixture
def process() -> Iterator[MeteringProcess]:
    with metering() as found:
        yield found


@pytest.fixture(scope="module")
def translated() -> Iterator[tuple[Host, Host]]:
    with translated_hosts(ROUTER[:-1], RULES) as found:
        run("ip", "-n", found[1].name, "route", "add", "default", "via", "10.77.2.254")
        yield found


def apply(records: Rows, namespace: str = ROUTER) -> Nat:
    nat = Nat()
    try:
        with inside(namespace):
            nat.apply(records)
    finally:
        nat.close()
    return nat


def translation(record: np.void) -> tuple[tuple[str, int], tuple[str, int]] | None:
    """Returns ((source, port), (destination, port)) as packets left; None if untranslated."""
    if not record["translated"]:
        return None
    found = []
    for side in ("source", "destination"):
        address = ".".join(map(str, record[f"nat_{side}_address"].tolist()))
        found.append((address, int(record[f"nat_{side}_port"])))
    return found[0], found[1]


def connect(client: Actor, server: Actor, port: int, inner: int = 7000) -> dict[str, Any]:
    """Makes a connection that ends.

    Returns the names that the sockets at its ends have for themselves and each other.
    """
    server.do(f"l = socket.create_server(('', {inner}), backlog=9)")
    client.do(f"s = socket.create_connection(('10.77.1.254', {port}), 5)")
    server.do("c, _ = l.accept(); l.close()")
    names = "[x.getsockname(), x.getpeername()]"
    found = {
        "client": [tuple(end) for end in client.do(f"x = s; result = {names}")],
        "server": [tuple(end) for end in server.do(f"x = c; result = {names}")],
    }
    client.do("s.sendall(b'q' * 500); s.shutdown(1)")
    server.do("while c.recv(9999): pass\nc.sendall(b'a' * 900); c.close()")
    client.do("while s.recv(9999): pass\ns.close()")
    return found


def both(records: Rows, client: tuple[str, int]) -> tuple[np.void, np.void]:
    """Returns the record from the client and the one from the server."""
    assert len(records) == 2
    to = records[records["source_port"] == client[1]]
    back = records[records["source_port"] != client[1]]
    assert len(to) == len(back) == 1
    return to[0], back[0]


def test_source_and_destination(process: MeteringProcess, translated: tuple[Host, Host]) -> None:
    """Each record has the addresses of the other end's socket. One look-up finds both."""
    with actors(*translated) as (client, server):
        names = connect(client, server, 80)
        process.tick_for(0.3)
    records = process.of(translated, TCP)
    nat = apply(records)
    to, back = both(records, names["client"][0])
    server_name, server_peer = names["server"]
    client_name, client_peer = names["client"]
    assert 40000 <= server_peer[1] <= 60000
    assert translation(to) == (server_peer, server_name)
    assert translation(back) == (client_peer, client_name)
    assert (nat.statistics.looked_up, nat.statistics.translated) == (1, 2)


def test_destination_only(process: MeteringProcess, translated: tuple[Host, Host]) -> None:
    with actors(*translated) as (client, server):
        names = connect(client, server, 81, 7001)
        process.tick_for(0.3)
    records = process.of(translated, TCP)
    apply(records)
    to, back = both(records, names["client"][0])
    assert translation(to) == (names["client"][0], ("10.77.2.2", 7001))
    assert translation(back) == (("10.77.1.254", 81), names["client"][0])


def join(process: MeteringProcess, namespace: str = ROUTER) -> Nat:
    """Looks up peers as the probe does after each read, as if the router were its host."""
    nat = Nat()
    try:
        process.tick()
        with inside(namespace):
            process.cache.join_translated(nat.find_peers, time.monotonic_ns())
    finally:
        nat.close()
    return nat


@pytest.mark.parametrize("is_joined", [True, False])
@pytest.mark.parametrize(("port", "inner", "is_hidden"), [(80, 7000, True), (83, 7003, False)])
def test_datagrams(
    process: MeteringProcess, translated: tuple[Host, Host], is_joined: bool, port: int,
    inner: int, is_hidden: bool,
) -> None:  # fmt: skip
    """One flow has both processes, and each datagram once.

    Without a look-up there are two flows.
    """
    with actors(*translated) as (client, server):
        for actor in (client, server):
            actor.do("u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(120)")
        server.do(f"u.bind(('', {inner}))")
        client.do(f"u.connect(('10.77.1.254', {port})); u.send(b'question')")
        seen = tuple(server.do("d, result = u.recvfrom(99); u.sendto(b'answer', result)"))
        client.do("u.recv(99)")
        name = tuple(client.do("result = u.getsockname()"))
        if is_joined:
            join(process)
        client.do("u.send(b'question')")
        server.do("d, result = u.recvfrom(99); u.sendto(b'answer', result)")
        process.tick_for(0.3)
        process.flush()
        pids = client.pid, server.pid
    assert (seen != name) == is_hidden
    records = process.of(translated, UDP)
    apply(records)
    found = {
        (int(record["source_port"]), int(record["flow_direction"])): translation(record)
        for record in records
    }
    sent = {
        (name[1], 1): (seen, ("10.77.2.2", inner)),
        (inner, 1): (("10.77.1.254", port), name),
    }
    if not is_joined:
        assert found == sent | {(port, 0): None, (seen[1], 0): None}
        return
    assert found == sent
    assert set(records["packets"].tolist()) == {2}
    assert len(set(records["flow_id"].tolist())) == 1
    assert {process.pids(record) for record in records} == {pids, pids[::-1]}


def test_datagrams_of_many_clients(process: MeteringProcess, translated: tuple[Host, Host]) -> None:
    """Each new end is looked up once. Ends of a later read find the earlier ones."""
    here, there = translated
    server = there.start_traffic("udp-serve", 7000)
    nat, found = Nat(), 0
    for _ in range(3):
        here.traffic("udp", "10.77.1.254", 80, 400, 100, 40)
        with inside(ROUTER):
            process.tick()
            process.cache.join_translated(nat.find_peers, time.monotonic_ns())
    nat.close()
    there.stop()
    process.flush()
    records = process.of(translated, UDP)
    assert len(records) == 240
    found = int(records["packets"].sum())
    assert found == 2 * 3 * 400
    assert sum(server.pid in process.pids(record) for record in records) == 240
    assert all(None not in process.pids(record) for record in records)
    assert nat.statistics.ends_looked_up <= 240


@pytest.mark.parametrize("close", ["first", "reset"])
def test_short_connections_that_are_over(
    process: MeteringProcess, translated: tuple[Host, Host], close: str
) -> None:
    """Connection tracking remembers them until their records leave, even after resets."""
    here, there = translated
    there.start_traffic("serve", 7000)
    process.tick()
    here.traffic("short", "10.77.1.254", 80, 500, "--close", close)
    process.tick_for(1.5)
    there.stop()
    records = process.of(translated, TCP)
    nat = apply(records)
    assert len(records) == 1000
    assert records["translated"].all()
    assert (nat.statistics.looked_up, nat.statistics.unread) == (500, 0)
    forward = records[records["destination_port"] == 80]
    back = records[records["source_port"] == 7000]
    theirs = dict(zip(back["flow_id"].tolist(), back["destination_port"].tolist(), strict=True))
    assert [theirs[flow] for flow in forward["flow_id"].tolist()] == forward[
        "nat_source_port"
    ].tolist()


def test_tracked_but_not_translated(
    process: MeteringProcess, translated: tuple[Host, Host]
) -> None:
    with actors(translated[0], Host(ROUTER, 3)) as (client, router):
        router.do("l = socket.create_server(('', 9000))")
        client.do("s = socket.create_connection(('10.77.1.254', 9000), 5); s.send(b'x')")
        router.do("c, _ = l.accept(); c.recv(9)")
        process.flush()
    records = process.of(translated, TCP)
    nat = apply(records)
    assert len(records) == 2
    assert not records["translated"].any()
    assert (nat.statistics.looked_up, nat.statistics.unread) == (1, 0)


def test_a_zone_is_not_mixed_with_the_default_one(
    process: MeteringProcess, translated: tuple[Host, Host]
) -> None:
    """Tuples in zones may repeat, so a connection in a zone stays untranslated."""
    with actors(*translated) as (client, server):
        connect(client, server, 82, 7002)
        process.tick_for(0.3)
    records = process.of(translated, TCP)
    nat = apply(records)
    assert len(records) == 2
    assert not records["translated"].any()
    assert (nat.statistics.looked_up, nat.statistics.errors) == (2, 0)


def test_asking_does_not_start_connection_tracking(process: MeteringProcess) -> None:
    """In namespaces without rules for it, packets stay untracked after a look-up."""
    with two_hosts("sv") as (a, b):
        b.exec("nft", "delete", "table", "inet", "truth")
        with actors(a, b) as (client, server):
            for at in range(2):
                server.do(f"l = socket.create_server(('', {7001 + at}))")
                client.do(f"s = socket.create_connection(('{b.four}', {7001 + at}), 5)")
                client.do("s.send(b'x')")
                process.flush()
                records = process.of((a, b), TCP)
                assert len(records)
                nat = apply(records, b.name)
                count = run("nsenter", f"--net=/run/netns/{b.name}", "cat",
                            "/proc/sys/net/netfilter/nf_conntrack_count").stdout  # fmt: skip
                assert int(count) == 0
                assert (nat.statistics.looked_up, nat.statistics.errors) == (0, 0)


_UNPRIVILEGED = """
import logging, numpy as np
from probe.flow.columns import RECORD_DTYPE
from probe.enrich.nat import Nat
logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
records = np.zeros(1, RECORD_DTYPE)
records["ip_version"], records["protocol"] = 4, 6
nat = Nat()
for _ in range(3):
    nat.apply(records)
print(nat.statistics.errors, records["translated"].sum())
"""


def test_without_the_privilege_it_is_off(translated: tuple[Host, Host]) -> None:
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{ROUTER}", "setpriv", "--inh-caps=-all",
         "--bounding-set=-net_admin", sys.executable, "-c", _UNPRIVILEGED],
        cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "0 0\n"
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("INFO connection tracking may not be read (")


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[tuple[Docker, Host]]:
    with two_hosts("sd") as (client, host), docker_daemon(host, tmp_path) as found:
        yield found, client


def test_a_port_that_docker_publishes(
    process: MeteringProcess, docker: tuple[Docker, Host]
) -> None:
    daemon, outside = docker
    container = daemon.start("-p", "8080:80", IMAGE, "nc", "-ll", "-p", "80", "-e",
                             "/bin/busybox", "echo", "hello")  # fmt: skip
    address = daemon.address(container)
    status = Path(f"/proc/{daemon.pid(container)}/net/tcp6")
    deadline = time.monotonic() + 120
    while ":0050 " not in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with actors(outside) as (client,):
        client.do(f"s = socket.create_connection(('{daemon.host.four}', 8080), 5)")
        name = tuple(client.do("result = s.getsockname()"))
        client.do("while s.recv(99): pass\ns.close()")
        process.tick_for(0.3)
    records = process.of([outside], TCP)
    apply(records, daemon.host.name)
    assert len(records) == 2
    (to,) = records[records["destination_port"] == 8080]
    (back,) = records[records["source_port"] == 80]
    assert translation(to) == (name, (address, 80))
    assert translation(back) == ((str(daemon.host.four), 8080), name)


@pytest.mark.parametrize("where", ["outside", "host"])
def test_datagrams_to_a_port_that_docker_publishes(
    process: MeteringProcess, docker: tuple[Docker, Host], where: str
) -> None:
    """Datagrams come from another host or from the host itself.

    The host sees its own packets as they leave.
    """
    daemon, outside = docker
    server = daemon.python("swserver", "-p", "8053:53/udp")
    place = outside if where == "outside" else daemon.host
    try:
        server.do("u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(120)")
        server.do("u.bind(('', 53))")
        with actors(place) as (client,):
            client.do("u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(120)")
            for _ in range(3):
                client.do(f"u.sendto(b'question', ('{daemon.host.four}', 8053))")
                server.do("d, peer = u.recvfrom(99); u.sendto(b'an answer', peer)")
                client.do("u.recv(99)")
                join(process, daemon.host.name)
            process.flush()
            pid, inside = client.pid, daemon.pid("swserver")
    finally:
        server.leave()
    records = process.of([place], UDP)
    assert sorted(records["packets"].tolist()) == [3, 3]
    assert len(set(records["flow_id"].tolist())) == 1
    assert {process.pids(record) for record in records} == {(pid, inside), (inside, pid)}
