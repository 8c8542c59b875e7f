"""Tests which end is the client of a conversation that is older than the probe, or was silent."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from probe.flow.codes import Role
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows
from probe.owners.users import UserNames
from probe.sources.ebpf import EbpfSource
from tests.support.lab.hosts import Host, run
from tests.support.meters.actors import actors
from tests.support.meters.ebpf import Meter
from tests.support.meters.ends import connect, listen, udp_socket


@contextlib.contextmanager
def connection(six: bool) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yields the client's and the server's socket."""
    family, host = (socket.AF_INET6, "::1") if six else (socket.AF_INET, "127.0.0.1")
    with (
        socket.create_server((host, 0), family=family) as server,
        socket.create_connection(server.getsockname()[:2]) as client,
    ):
        served, _ = server.accept()
        with served:
            yield client, served


def exchange(client: socket.socket, served: socket.socket) -> None:
    client.sendall(b"q" * 1000)
    served.recv(2000)
    served.sendall(b"r" * 3000)
    client.recv(4000)


def roles(rows: Rows, client: socket.socket, served: socket.socket) -> list[tuple[bool, int]]:
    """Returns [(True for the client's end, role)]."""
    ports = [one.getsockname()[1] for one in (client, served)]
    ends = rows[(rows["local_port"] == ports[0]) | (rows["local_port"] == ports[1])]
    found = {(int(row["local_port"]) == ports[0], int(row["role"])) for row in ends}
    return sorted(found)


RIGHT = [(False, Role.RESPONDER), (True, Role.INITIATOR)]


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("before", ["nothing", "traffic", "waiting", "half closed"])
def test_tcp(before: str, six: bool) -> None:
    with connection(six) as (client, served):
        if before != "nothing":
            exchange(client, served)
        if before == "waiting":  # the server does not read, so its window closes
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.send(b"w" * 65536)
        if before == "half closed":
            client.shutdown(socket.SHUT_WR)
            assert not served.recv(1)
        meter = Meter()
        if before == "half closed":
            served.sendall(b"r")
        elif before == "waiting":
            served.setblocking(False)
            deadline = time.monotonic() + 120
            while len(roles(meter.rows, client, served)) < 2 and time.monotonic() < deadline:
                with contextlib.suppress(BlockingIOError):
                    served.recv(1 << 20)
                meter.read()
        else:
            exchange(client, served)
        meter.read()
        meter.collector.close()
        assert roles(meter.rows, client, served) == RIGHT


@contextlib.contextmanager
def conversation(connected: bool, bound: bool) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yields a client's and a server's socket that have exchanged data.

    With ``bound`` the client has a chosen port.
    """
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        for one in (client, server):
            one.settimeout(120)
        server.bind(("127.0.0.1", 24683 if bound else 0))
        if connected:
            client.connect(server.getsockname())
        speak(client, server)
        yield client, server


def speak(client: socket.socket, server: socket.socket, server_first: bool = False) -> None:
    if server_first:
        server.sendto(b"news", client.getsockname())
        client.recv(9)
    client.sendto(b"q", server.getsockname())
    _, peer = server.recvfrom(9)
    server.sendto(b"r", ("127.0.0.1", peer[1]))
    client.recv(9)


@pytest.mark.parametrize("server_first", [True, False], ids=["server first", "client first"])
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "unconnected"])
@pytest.mark.parametrize("bound", [True, False], ids=["chosen port", "any port"])
def test_udp_older_than_the_probe(bound: bool, connected: bool, server_first: bool) -> None:
    with conversation(connected, bound) as (client, server):
        meter = Meter()
        speak(client, server, server_first)
        meter.read()
        meter.collector.close()
        # an unconnected client's socket does not have the address
        assert roles(meter.rows, client, server) == RIGHT


@pytest.mark.parametrize("server_first", [True, False], ids=["server first", "client first"])
def test_a_silence_turns_nobody_round(server_first: bool) -> None:
    collector = EbpfSource(OwnerTable(), UserNames(), udp_idle_ns=300_000_000)
    collector.open()
    with (
        contextlib.closing(collector),
        conversation(connected=True, bound=True) as (other, server),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(120)
        client.bind(("127.0.0.1", 0))
        speak(other, server)
        speak(client, server)
        collector.read()
        time.sleep(0.5)
        collector.read()  # forgets silent peers
        speak(client, server, server_first)
        rows = collector.read().rows
        ports = rows["remote_port"] == client.getsockname()[1]
        assert roles(rows[ports], client, server) == [(False, Role.RESPONDER)]


def test_what_is_refused_storage_is_counted(hosts: tuple[Host, Host]) -> None:
    """The kernel refuses storage beyond the memory for a socket's options."""
    for host in hosts:
        run("ip", "netns", "exec", host.name, "sysctl", "-qw", "net.core.optmem_max=0")
    with actors(*hosts) as (client, server):
        connect(client, server, str(hosts[1].four), listen(server, str(hosts[1].four)))
        udp_socket(client, 0)
        meter = Meter()
        try:
            udp = f"u.sendto(b'x', ('{hosts[1].four}', 9))"
            client.do(f"s.sendall(b'x' * 100)\nfor _ in range(7): {udp}")
            meter.read()
            losses = meter.collector.losses()
            assert losses["storage_failed"] >= 3  # both ends and the UDP socket
            assert losses["unstored_datagrams"] == 7
            assert not len(meter.of(hosts[0], 17))
        finally:
            meter.collector.close()
