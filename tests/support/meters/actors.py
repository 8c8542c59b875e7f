"""The Metering Process on the real kernel without export, and processes that tests direct."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from probe.flow.batch import FlowBatch
from probe.flow.cache import SECOND_NS, FlowCache
from probe.flow.columns import RECORD_DTYPE
from probe.flow.owner import Owner, OwnerTable
from probe.flow.rows import Rows
from probe.owners.users import UserNames
from probe.run.own_traffic import OwnTraffic
from probe.sources.ebpf import EbpfSource
from tests.support.lab.hosts import TRAFFIC, Host, run

TCP, UDP = 6, 17
FORWARD, BACK = 1, 2  # biflow_direction: the source is the initiator, the responder

_DIRECTED = """
import encodings.idna, json, socket, sys, time  # idna: needed later, maybe by another user
scope = dict(globals())
for line in sys.stdin:
    scope["result"] = None
    exec(json.loads(line), scope)
    print(json.dumps(scope["result"]), flush=True)
"""


class Actor:
    """A Python process elsewhere that runs the code it is told; ``python`` is how to start it."""

    def __init__(self, *python: str) -> None:
        self._process = subprocess.Popen(
            [*python, "-S", "-c", _DIRECTED],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.pid = self._process.pid

    def do(self, code: str) -> Any:
        """Runs ``code``; what it assigned to ``result``."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"failed, see above: {code}"
        return json.loads(answer)

    def leave(self) -> None:
        """The process ends as its input does; what it has open is closed."""
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(120)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


@contextlib.contextmanager
def actors(*hosts: Host | None) -> Iterator[list[Actor]]:
    """One per host; None is the namespace of the tests."""
    inside = [("ip", "netns", "exec", host.name) if host else () for host in hosts]
    found = [Actor(*command, sys.executable) for command in inside]
    try:
        yield found
    finally:
        for actor in found:
            actor.leave()


def start(host: Host, *arguments: object) -> subprocess.Popen[bytes]:
    """A client of traffic.py that runs beside the test, which waits for it."""
    command = ["ip", "netns", "exec", host.name, sys.executable, str(TRAFFIC)]
    return subprocess.Popen([*command, *map(str, arguments)])


class MeteringProcess:
    """Collector, own filter and cache, ticked by the test; ``records`` are all that left."""

    def __init__(self, active_s: float = 60, idle_s: float = 15) -> None:
        self.owners = OwnerTable()
        self.collector = EbpfSource(self.owners, UserNames())
        self.collector.open()
        netns = self.collector.host_netns
        self.cache = FlowCache(
            active_timeout_ns=round(active_s * SECOND_NS),
            idle_timeout_ns=round(idle_s * SECOND_NS),
            host_netns=netns,
        )
        self.own = OwnTraffic(self.owners, netns)
        self.records: Rows = np.zeros(0, RECORD_DTYPE)
        self._lock = threading.Lock()
        self._open = True
        self._drainer = threading.Thread(target=self._drain)
        self._drainer.start()

    def tick(self) -> None:
        """One read, and the records that are due."""
        with self._lock:
            self._observe(self.collector.read())
            self._keep(self.cache.expire(time.monotonic_ns(), _wall_offset_ns()))

    def drain(self) -> None:
        """What ended, as the probe's loop takes it between two reads."""
        with self._lock:
            self._observe(self.collector.drain())

    def tick_for(self, seconds: float, interval_s: float = 0.1) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.tick()
            time.sleep(interval_s)
        self.tick()

    def flush(self) -> None:
        """The last read, and all that is left."""
        with self._lock:
            self._observe(self.collector.read())
            now_ns, offset_ns = time.monotonic_ns(), _wall_offset_ns()
            self._keep(self.cache.expire(now_ns, offset_ns))
            self._keep(self.cache.flush(now_ns, offset_ns))

    def of(self, hosts: Iterable[Host], protocol: int) -> Rows:
        """Records that a socket in one of the namespaces took part in."""
        inodes = [os.stat(f"/run/netns/{host.name}").st_ino for host in hosts]
        records = self.records
        wanted = np.isin(records["source_netns_inode"], inodes)
        wanted |= np.isin(records["destination_netns_inode"], inodes)
        found: Rows = records[wanted & (records["protocol"] == protocol)]
        return found

    def owner(self, record: np.void, side: str) -> Owner:
        return self.owners[int(record[f"{side}_owner"])]

    def pids(self, record: np.void) -> tuple[int | None, int | None]:
        """Of the processes at the source and at the destination; None where unknown."""
        return self.owner(record, "source").process.pid, self.owner(
            record, "destination"
        ).process.pid

    def close(self) -> None:
        self._open = False
        self._drainer.join()
        self.collector.close()

    def _drain(self) -> None:
        """As the probe's loop does: whatever else runs on this host must not fill the ring."""
        while self._open:
            if select.select([self.collector], [], [], 0.1)[0]:
                self.drain()

    def _observe(self, batch: FlowBatch) -> None:
        self.cache.observe(self.own.take_out(batch), time.monotonic_ns())

    def _keep(self, records: Rows) -> None:
        """No record of whatever is on this host may be of the future or end before it begins."""
        assert (records["first_ns"] <= records["last_ns"]).all()
        assert (records["last_ns"] <= time.time_ns()).all()
        assert (records["packets"] > 0).all()
        self.records = np.concatenate([self.records, records])


@contextlib.contextmanager
def metering(active_s: float = 60, idle_s: float = 15) -> Iterator[MeteringProcess]:
    assert os.geteuid() == 0, "the kernel tests load eBPF: run them as root"
    found = MeteringProcess(active_s, idle_s)
    try:
        yield found
    finally:
        found.close()


@contextlib.contextmanager
def translated_hosts(prefix: str, rules: str, net: str = "10.77") -> Iterator[tuple[Host, Host]]:
    """A client's host (``net``.1.1) and a server's (``net``.2.2) behind a router with ``rules``.

    The client has a route to everything through the router, and the server to the router only.
    """
    a, b = Host(f"{prefix}a", 1), Host(f"{prefix}b", 2)
    router = f"{prefix}r"
    names = (a.name, b.name, router)
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        run("ip", "netns", "add", name)
    try:
        for number, host in ((1, a), (2, b)):
            _connect(host, router, number, net)
        run("ip", "-n", a.name, "route", "add", "default", "via", f"{net}.1.254")
        enable = ("sysctl", "-qw", "net.ipv4.ip_forward=1")
        run("ip", "netns", "exec", router, *enable)
        run("ip", "netns", "exec", router, "nft", "-f", "-", input=rules)
        yield a, b
    finally:
        for host in (a, b):
            host.stop()
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _connect(host: Host, router: str, number: int, net: str) -> None:
    device = f"r{number}"
    run("ip", "link", "add", host.device, "netns", host.name, "type", "veth",
        "peer", "name", device, "netns", router)  # fmt: skip
    for name, address, link in (
        (host.name, f"{net}.{number}.{number}/24", host.device),
        (router, f"{net}.{number}.254/24", device),
    ):
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", name, "addr", "add", address, "dev", link)
        run("ip", "-n", name, "link", "set", link, "up")


def _wall_offset_ns() -> int:
    return time.time_ns() - time.monotonic_ns()
