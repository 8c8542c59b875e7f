"""Makes two network namespaces joined by a veth, with the default offloads."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from bench.process import BenchError

SUBNET = "10.78.0.0/24"

#: A closed-loop client opens more connections than there are ports beside those in TIME_WAIT.
_SETTINGS = (
    "net.ipv4.ip_local_port_range=10000 65000",
    "net.ipv4.tcp_tw_reuse=1",
    "net.ipv4.tcp_max_tw_buckets=20000",
    "net.core.somaxconn=4096",
    "net.ipv4.tcp_max_syn_backlog=8192",
    "net.ipv6.conf.all.disable_ipv6=1",
)


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace with one interface."""

    name: str
    device: str
    address: str

    def command(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *command]


@dataclass(frozen=True, slots=True)
class Network:
    client: Host
    server: Host


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Makes the namespaces, and removes them in any case."""
    prefix = f"bench{os.getpid()}"
    hosts = [Host(f"{prefix}{side}", f"bench{side}", f"10.78.0.{number}")
             for number, side in enumerate("ab", 1)]  # fmt: skip
    made = Network(*hosts)
    with contextlib.ExitStack() as stack:
        for host in hosts:
            _run("ip", "netns", "add", host.name)
            stack.callback(_run, "ip", "netns", "del", host.name)
        _run("ip", "link", "add", hosts[0].device, "netns", hosts[0].name, "type", "veth",
             "peer", "name", hosts[1].device, "netns", hosts[1].name)  # fmt: skip
        for host in hosts:
            _set_up(host)
        yield made


def _set_up(host: Host) -> None:
    _run("ip", "-n", host.name, "link", "set", "lo", "up")
    _run("ip", "-n", host.name, "addr", "add", f"{host.address}/24", "dev", host.device)
    _run("ip", "-n", host.name, "link", "set", host.device, "up")
    _run(*host.command("sysctl", "-qw", *_SETTINGS))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip()}")
