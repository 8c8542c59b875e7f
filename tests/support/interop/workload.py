"""Makes traffic between two hosts that begins and ends in all ways at once."""

from __future__ import annotations

import contextlib
import ipaddress
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.lab.hosts import TRAFFIC, Counted, Host, run, two_hosts
from tests.support.programs import Program, running

_CHAT = Path(__file__).with_name("chat.py")

#: Differs from the addresses of tests/kernel, which may run at the same time.
INCLUDE = ("--include", "cidr=10.79.1.0/24", "--include", "cidr=fd78::/64")
BULK_OCTETS = 20_000_000
_SHORT_PORTS = {7001: (), 7002: ("--close", "first"), 7003: ("--close", "reset"),
                7004: ("--close", "late")}  # fmt: skip
_MANY = range(7020, 7040)
#: (port, more options of the client)
_SHORT = ((7001, "--close", "first"), (7001, "--close", "reset"), (7002, "--close", "last"),
          (7003, "--close", "last"), (7004, "--close", "first"))  # fmt: skip


@contextlib.contextmanager
def interop_hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts("it") as hosts:
        for number, host in enumerate(hosts, 1):
            _readdress(host, number)
        yield hosts


def _readdress(host: Host, number: int) -> None:
    host.four = ipaddress.ip_address(f"10.79.1.{number}")
    host.six = ipaddress.ip_address(f"fd78::{number}")
    for address in (f"{host.four}/24", f"{host.six}/64"):
        run("ip", "-n", host.name, "addr", "add", address, "dev", host.device, "nodad")


def _play(host: Host, *arguments: object) -> None:
    """Runs ``Host.traffic`` with a bound in time."""
    command = ("ip", "netns", "exec", host.name, sys.executable, TRAFFIC, *arguments)
    run(*map(str, command), timeout=180)


class Workload:
    """Servers on the second host and a sink on the first; ``play`` makes the traffic."""

    def __init__(self, hosts: tuple[Host, Host]) -> None:
        self.hosts = hosts
        self.here, self.there = hosts
        self.here.start_traffic("sink", 7000)
        self.there.start_traffic("sink", 7000)
        self.there.start_traffic("serve", 7005, "--six")
        for port, options in _SHORT_PORTS.items():
            self.there.start_traffic("serve", port, *options)
        for port in (7010, *_MANY):
            self.there.start_traffic("udp-serve", port)
        self.there.start_traffic("udp-serve", 7011, "--six")
        self.tcp = self.udp = 0
        self.begin()

    def begin(self) -> None:
        """Resets the counters of nft."""
        for host in self.hosts:
            host.reset_counters()

    def play(self, count: int) -> None:
        """Makes ``count`` short connections and datagrams of each kind, and bulk both ways."""
        self.short(count)
        self.bulk()
        self.datagrams(count)
        time.sleep(0.5)  # until late servers close

    def short(self, count: int) -> None:
        for port, *options in _SHORT:
            _play(self.here, "short", self.there.four, port, count, "--parallel", 2, *options)
        _play(self.here, "short", self.there.six, 7005, count, "--parallel", 2)
        self.tcp += count * (len(_SHORT) + 1)

    def bulk(self) -> None:
        _play(self.here, "bulk", self.there.four, 7000, BULK_OCTETS)
        _play(self.there, "bulk", self.here.four, 7000, BULK_OCTETS)
        self.tcp += 2

    def datagrams(self, count: int) -> None:
        for host, port in ((self.there.four, 7010), (self.there.six, 7011)):
            _play(self.here, "udp", host, port, count, 100, 5)
            _play(self.here, "udp", host, port, count, 700, 5, "--unconnected")
            self.udp += 10
        _play(self.here, "udp-many", self.there.four, _MANY[0], len(_MANY), count, 300)
        self.udp += len(_MANY)

    @contextlib.contextmanager
    def chatting(self, folder: Path) -> Iterator[Program]:
        """Keeps one TCP connection and one UDP flow for as long as the block lasts."""
        command = ("ip", "netns", "exec", self.here.name, sys.executable, _CHAT, self.there.four,
                   7001, 7010)  # fmt: skip
        with running(command, folder, "chat") as chat:
            self.tcp += 1
            self.udp += 1
            yield chat

    def truth(self, sender: Host, protocol: str) -> Counted:
        """Returns what nft counted at the other host, after segmentation and without losses."""
        receiver = self.there if sender is self.here else self.here
        return receiver.counted()[f"{protocol}_in"]
