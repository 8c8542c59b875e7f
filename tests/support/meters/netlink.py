"""What the tests of the Netlink collector share."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from probe.flow.batch import FlowBatch
from probe.flow.cache import FlowCache
from probe.flow.owner import Owner, OwnerTable
from probe.flow.rows import Rows
from probe.owners.users import UserNames
from probe.sources.ebpf import EbpfSource
from probe.sources.netlink import NetlinkSource
from tests.support.lab.hosts import Host
from tests.support.meters.actors import TCP, Actor

_V1 = Path("/sys/fs/cgroup/memory")
#: Where runtimes put containers on this host.
CGROUP = _V1 if _V1.exists() else _V1.parent


class Meter:
    """A collector, the rows that it has read, and a cache behind it."""

    def __init__(self, collector: NetlinkSource | EbpfSource) -> None:
        self.collector = collector
        collector.open()
        self.rows: Rows = collector.read().rows[:0]
        self.cache = FlowCache(host_netns=collector.host_netns)

    def read(self) -> Rows:
        return self._keep(self.collector.read())

    def look(self, *namespaces: str) -> None:
        """Until those are metered: a large host is not searched at every read."""
        collector = self.collector
        assert isinstance(collector, NetlinkSource)
        wanted = {os.stat(f"/run/netns/{name}").st_ino for name in namespaces}
        deadline = time.monotonic() + 120
        while not wanted <= collector.namespaces:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            self.read()

    def look_away(self, inode: int) -> None:
        """Until that is metered no more."""
        collector = self.collector
        assert isinstance(collector, NetlinkSource)
        deadline = time.monotonic() + 120
        while inode in collector.namespaces:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            self.read()

    def drain(self) -> Rows:
        return self._keep(self.collector.drain())

    def _keep(self, batch: FlowBatch) -> Rows:
        fresh = batch.rows.copy()
        self.rows = np.concatenate([self.rows, fresh])
        self.cache.observe(FlowBatch(fresh), time.monotonic_ns())
        return fresh

    def of(self, host: Host) -> Rows:
        inode = os.stat(f"/run/netns/{host.name}").st_ino
        rows = self.rows
        found: Rows = rows[(rows["netns_inode"] == inode) & (rows["protocol"] == TCP)]
        return found

    def owner(self, row: np.void) -> Owner:
        return self.collector.owners[int(row["owner"])]

    def records(self) -> Rows:
        """All that the cache holds, as it would leave."""
        return self.cache.flush(time.monotonic_ns(), 0)


@contextlib.contextmanager
def netlink() -> Iterator[Meter]:
    found = Meter(NetlinkSource(OwnerTable(), UserNames()))
    try:
        yield found
    finally:
        found.collector.close()


def connect(client: Actor, server: Actor, address: str, port: int = 7000) -> None:
    six = ", family=socket.AF_INET6" if ":" in address else ""
    server.do(f"l = socket.create_server(({address!r}, {port}){six})")
    client.do(f"s = socket.create_connection(({address!r}, {port}), 5)")
    server.do("c, _ = l.accept()")


def exchange(client: Actor, server: Actor, octets: int) -> None:
    server.do(
        "import threading\n"
        f"t = threading.Thread(target=lambda: c.recv({octets}, socket.MSG_WAITALL)); t.start()"
    )
    client.do(f"s.sendall(b'x' * {octets})")
    server.do("t.join(); c.sendall(b'y' * 30000)")
    client.do("s.recv(30000, socket.MSG_WAITALL)")
