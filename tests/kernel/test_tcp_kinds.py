"""Tests TCP that is opened or framed in other ways, against nft's counters."""

from __future__ import annotations

import time

import numpy as np
import pytest

from probe.flow.codes import Mark
from tests.support.lab.hosts import Host, run
from tests.support.meters.actors import TCP, Actor, actors
from tests.support.meters.ebpf import Meter

MPTCP = 262
_LISTEN = """
l = socket.socket(socket.AF_INET, socket.SOCK_STREAM, {protocol})
l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
{option}
l.bind(("", 7000)); l.listen(64)
"""
_CONNECT = """
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, {protocol})
s.connect(("{host}", 7000)); s.sendall(b"q" * {request})
"""
_FAST = """
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
s.sendto(b"q" * {request}, 0x20000000, ("{host}", 7000))
"""
_ANSWER = """
c, _ = l.accept()
left = {request}
while left: left -= len(c.recv(left))
c.sendall(b"r" * {reply})
"""
_CLOSE = """
left = {reply}
while left: left -= len(s.recv(left))
s.close()
"""
KINDS = {
    "plain": (0, "", _CONNECT),
    "MPTCP": (MPTCP, "", _CONNECT),
    "deferred": (0, "l.setsockopt(6, 9, 5)", _CONNECT),
    "fast open": (0, "l.setsockopt(6, 23, 5)", _FAST),
}


def talk(client: Actor, server: Actor, host: str, kind: str, request: int, reply: int) -> None:
    protocol, _, opening = KINDS[kind]
    told = {"protocol": protocol, "host": host, "request": request, "reply": reply}
    client.do(opening.format(**told))
    server.do(_ANSWER.format(**told))
    client.do(_CLOSE.format(**told))
    server.do("c.recv(1); c.close()")


@pytest.mark.parametrize("sizes", [(300, 300), (20_000, 60_000)], ids=["short", "long"])
@pytest.mark.parametrize("kind", KINDS)
def test_counters(
    meter: Meter, hosts: tuple[Host, Host], kind: str, sizes: tuple[int, int]
) -> None:
    for host in hosts:
        host.exec("sysctl", "-qw", "net.ipv4.tcp_fastopen=3")
    with actors(*hosts) as (client, server):
        protocol, option, _ = KINDS[kind]
        server.do(_LISTEN.format(protocol=protocol, option=option))
        talk(client, server, str(hosts[1].four), kind, 10, 10)  # Fast Open gets its cookie
        time.sleep(0.3)
        meter.forget()
        for host in hosts:
            host.reset_counters()
        for _ in range(10):
            talk(client, server, str(hosts[1].four), kind, *sizes)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            meter.read()
            if all((meter.of(host, TCP)["mark"] & Mark.CLOSED).sum() == 10 for host in hosts):
                break
            time.sleep(0.1)
    for host, peer in (hosts, hosts[::-1]):
        rows = meter.of(host, TCP)
        # data is segmented on its way over the veth, and the receiver's nft sees each segment
        for way, truth in (
            ("tx", peer.counted()["tcp_in"]),
            ("rx", host.counted()["tcp_in"]),
        ):
            packets, octets = (int(rows[f"{way}_{unit}"].sum()) for unit in ("packets", "octets"))
            assert packets == truth.packets, (host.name, way)
            share = 0.005 if kind == "MPTCP" else 0.002
            assert abs(octets - truth.octets) <= share * truth.octets, (host.name, way)


@pytest.mark.parametrize("window_scaling", [0, 1], ids=["no scale", "scale"])
@pytest.mark.parametrize("sack", [0, 1], ids=["no SACK", "SACK"])
@pytest.mark.parametrize("timestamps", [0, 1], ids=["no timestamps", "timestamps"])
def test_the_options_that_were_negotiated(
    meter: Meter, hosts: tuple[Host, Host], timestamps: int, sack: int, window_scaling: int
) -> None:
    """Received octets are exact, since a Linux peer's SYN has the options that both ends have."""
    for host in hosts:
        for name, value in (
            ("timestamps", timestamps),
            ("sack", sack),
            ("window_scaling", window_scaling),
        ):
            host.exec("sysctl", "-qw", f"net.ipv4.tcp_{name}={value}")
        host.reset_counters()
    with actors(*hosts) as (client, server):
        server.do(_LISTEN.format(protocol=0, option=""))
        talk(client, server, str(hosts[1].four), "plain", 300, 300)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            meter.read()
            if all((meter.of(host, TCP)["mark"] & Mark.CLOSED).any() for host in hosts):
                break
            time.sleep(0.1)
    for host in hosts:
        rows, truth = meter.of(host, TCP), host.counted()["tcp_in"]
        assert int(rows["rx_packets"].sum()) == truth.packets, host.name
        assert int(rows["rx_octets"].sum()) == truth.octets, host.name


def test_a_further_subflow_of_mptcp_has_the_owner(meter: Meter, hosts: tuple[Host, Host]) -> None:
    """A worker of the kernel connects the subflow."""
    here, there = hosts
    run("ip", "-n", here.name, "address", "add", "10.77.0.31/24", "dev", here.device)
    for host in hosts:
        run("ip", "-n", host.name, "mptcp", "limits", "set", "subflow", "2")
    run("ip", "-n", here.name, "mptcp", "endpoint", "add", "10.77.0.31", "subflow")
    with actors(*hosts) as (client, server):
        server.do(_LISTEN.format(protocol=MPTCP, option=""))
        client.do(_CONNECT.format(protocol=MPTCP, host=there.four, request=100))
        server.do("c, _ = l.accept()\nc.recv(100)")
        deadline = time.monotonic() + 30
        while len(ports := set(meter.of(here, TCP)["local_port"].tolist())) < 2:
            assert time.monotonic() < deadline, "no further subflow"
            server.do("c.send(b'r')")
            client.do("s.recv(9)")
            meter.read()
        rows = meter.of(here, TCP)
        named = {meter.owners[int(owner)].process.pid for owner in np.unique(rows["owner"])}
        assert named == {client.pid}
        assert len(ports) == 2
