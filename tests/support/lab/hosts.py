"""Makes two hosts of network namespaces joined by a veth; nft counters are the outside truth.

Segmentation offload is off, so that nft counts the packets on the link.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TRAFFIC = Path(__file__).with_name("traffic.py")

_COUNTERS = """
table inet truth {
  counter tcp_out {}
  counter tcp_in {}
  counter udp_out {}
  counter udp_in {}
  chain out {
    type filter hook postrouting priority 300;
    meta l4proto tcp counter name tcp_out
    meta l4proto udp counter name udp_out
  }
  chain in {
    type filter hook prerouting priority -500;
    meta l4proto tcp counter name tcp_in
    meta l4proto udp counter name udp_in
  }
}
"""

_CLONE_NEWNET = 0x40000000

#: Drops packets before they are counted, as if they were lost on the way.
_LOSS = """
table inet loss {
  chain in {
    type filter hook prerouting priority -600;
    numgen random mod 1000 < %d drop
  }
}
"""


def run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=True, text=True, capture_output=True, **options)  # type: ignore[call-overload,no-any-return]


@dataclass(frozen=True)
class Counted:
    packets: int
    octets: int


class Host:
    """A network namespace with an address on each family."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.device = f"v{name}"
        self.four = ipaddress.ip_address(f"10.77.0.{number}")
        self.six = ipaddress.ip_address(f"fd77::{number}")
        self._processes: list[subprocess.Popen[str]] = []

    def exec(self, *command: str) -> str:
        return run("ip", "netns", "exec", self.name, *command).stdout

    def traffic(self, *arguments: object) -> None:
        self.exec(sys.executable, str(TRAFFIC), *map(str, arguments))

    def begin_traffic(self, *arguments: object) -> subprocess.Popen[str]:
        """Starts a client, and returns at once."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, sys.executable, str(TRAFFIC), *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    def start_traffic(self, *arguments: object) -> subprocess.Popen[str]:
        """Starts a server, and returns once it listens."""
        process = self.begin_traffic(*arguments)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        return process

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        self._processes.clear()

    def counted(self) -> dict[str, Counted]:
        """Returns nft's counters of the IP layer: 'tcp_out', 'tcp_in', 'udp_out', 'udp_in'."""
        text = self.exec("nft", "-j", "list", "counters", "table", "inet", "truth")
        found = (entry.get("counter") for entry in json.loads(text)["nftables"])
        return {c["name"]: Counted(c["packets"], c["bytes"]) for c in found if c}

    def link(self) -> dict[str, Counted]:
        """Returns the veth's counters of the IP layer since ``reset_counters``: 'out' and 'in'.

        They include a handful of packets of other protocols, such as ARP and neighbour discovery.
        """
        now = self._link_statistics()
        return {
            way: Counted(now[way][0] - self._base[way][0], now[way][1] - self._base[way][1])
            for way in now
        }

    def _link_statistics(self) -> dict[str, tuple[int, int]]:
        text = run("ip", "-n", self.name, "-j", "-s", "link", "show", self.device).stdout
        found = json.loads(text)[0]["stats64"]
        return {
            way: (found[key]["packets"], found[key]["bytes"] - 14 * found[key]["packets"])
            for way, key in (("out", "tx"), ("in", "rx"))
        }

    def lose(self, per_thousand: int) -> None:
        """Loses that share of the packets that arrive from now on."""
        run("ip", "netns", "exec", self.name, "nft", "-f", "-", input=_LOSS % per_thousand)

    def reset_counters(self) -> None:
        self.exec("nft", "reset", "counters", "table", "inet", "truth")
        self._base = self._link_statistics()


def _set_up(host: Host) -> None:
    for command in (
        ("link", "set", "lo", "up"),
        ("addr", "add", f"{host.four}/24", "dev", host.device),
        ("addr", "add", f"{host.six}/64", "dev", host.device, "nodad"),
        ("link", "set", host.device, "up"),
    ):
        run("ip", "-n", host.name, *command)
    host.exec("ethtool", "-K", host.device, "tso", "off", "gso", "off", "gro", "off")
    # windows that a veth's queue holds: without segmentation offload larger ones overflow it, and
    # the loss that tests want is the one that they make
    host.exec(
        "sysctl", "-qw", "net.ipv4.ip_local_port_range=2000 65000",
        "net.ipv4.tcp_wmem=4096 65536 131072", "net.ipv4.tcp_rmem=4096 65536 131072",
    )  # fmt: skip
    run("ip", "netns", "exec", host.name, "nft", "-f", "-", input=_COUNTERS)


@contextlib.contextmanager
def two_hosts(prefix: str = "sf") -> Iterator[tuple[Host, Host]]:
    """Makes the host of a client and that of a server, joined by a veth."""
    hosts = (Host(f"{prefix}a", 1), Host(f"{prefix}b", 2))
    a, b = hosts
    for host in hosts:
        subprocess.run(["ip", "netns", "del", host.name], capture_output=True, check=False)
        run("ip", "netns", "add", host.name)
    try:
        run("ip", "link", "add", a.device, "netns", a.name, "type", "veth",
            "peer", "name", b.device, "netns", b.name)  # fmt: skip
        for host in hosts:
            _set_up(host)
        yield hosts
    finally:
        for host in hosts:
            host.stop()
            run("ip", "netns", "del", host.name)


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Moves this thread into a network namespace, as ``os.setns`` of Python 3.12 does."""
    setns = ctypes.CDLL(None, use_errno=True).setns
    ours, theirs = (
        os.open(path, os.O_RDONLY)
        for path in ("/proc/thread-self/ns/net", f"/run/netns/{namespace}")
    )
    try:
        assert setns(theirs, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        assert setns(ours, _CLONE_NEWNET) == 0
        os.close(ours)
        os.close(theirs)
