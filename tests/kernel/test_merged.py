"""Tests both sources at once: nothing is counted twice, and each adds what only it sees."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
import pytest

from probe.flow.batch import FlowBatch
from probe.flow.cache import FlowCache
from probe.flow.codes import Mark, OwnerSource
from probe.flow.owner import Owner, OwnerTable
from probe.flow.rows import Rows
from probe.owners.users import UserNames
from probe.sources.ebpf import EbpfSource
from probe.sources.merged import MergedSource
from probe.sources.registry import open_source
from probe.sources.source import Source
from tests.support.lab.hosts import Host, run
from tests.support.meters.actors import TCP, Actor, actors

PORT = 7000


class Meter:
    """An open source, its rows of a pair of hosts, and a cache behind it."""

    def __init__(self, collector: Source, hosts: tuple[Host, Host]) -> None:
        self.collector = collector
        self._inodes = [os.stat(f"/run/netns/{host.name}").st_ino for host in hosts]
        self.rows: Rows = collector.read().rows[:0].copy()
        self.cache = FlowCache(host_netns=collector.host_netns)

    def read(self, drain: bool = False) -> None:
        rows = (self.collector.drain() if drain else self.collector.read()).rows
        wanted = np.isin(rows["netns_inode"], self._inodes) & (rows["protocol"] == TCP)
        fresh = rows[wanted]
        self.rows = np.concatenate([self.rows, fresh])
        self.cache.observe(FlowBatch(fresh.copy()), time.monotonic_ns())

    def of(self, host: Host) -> Rows:
        found: Rows = self.rows[
            self.rows["netns_inode"] == os.stat(f"/run/netns/{host.name}").st_ino
        ]
        return found

    def owner(self, row: np.void, column: str = "owner") -> Owner:
        return self.collector.owners[int(row[column])]

    def sums(self, host: Host) -> tuple[int, ...]:
        rows = self.of(host)
        names = ("tx_octets", "rx_octets", "tx_packets", "rx_packets", "retransmitted", "lost")
        return tuple(int(rows[name].sum()) for name in names)


@pytest.fixture
def both(request: pytest.FixtureRequest, hosts: tuple[Host, Host]) -> Iterator[tuple[Meter, Meter]]:
    """Yields (merged, eBPF alone) on the same traffic; Netlink sees the hosts' namespaces."""
    events = getattr(request, "param", False)
    with actors(*hosts) as keepers:
        for keeper in keepers:
            keeper.do("result = 1")
        opened = [
            open_source(name, OwnerTable(), UserNames(), False, events)
            for name in ("ebpf+netlink", "ebpf")
        ]
        try:
            assert isinstance(opened[0], MergedSource)
            assert isinstance(opened[1], EbpfSource)
            merged, alone = (Meter(one, hosts) for one in opened)
            yield merged, alone
        finally:
            for one in opened:
                one.close()


def talk(client: Actor, server: Actor, address: str) -> None:
    """Makes one connection that stays open, with payload both ways."""
    server.do(f"l = socket.create_server(({address!r}, {PORT}))")
    client.do(f"s = socket.create_connection(({address!r}, {PORT}), 5); s.sendall(b'x' * 50_000)")
    server.do("c, _ = l.accept(); c.recv(50_000, socket.MSG_WAITALL); c.sendall(b'y' * 30_000)")
    client.do("s.recv(30_000, socket.MSG_WAITALL)")


def test_the_same_as_ebpf_alone(both: tuple[Meter, Meter], hosts: tuple[Host, Host]) -> None:
    merged, alone = both
    here, there = hosts
    there.start_traffic("serve", PORT + 1)
    with actors(*hosts) as (client, server):
        talk(client, server, str(there.four))
        for _ in range(4):
            here.traffic("short", there.four, PORT + 1, 50)
            client.do("s.sendall(b'x' * 9000)")
            server.do("c.recv(9000, socket.MSG_WAITALL)")
            for meter in both:
                meter.read(drain=True)
                meter.read()
        client.do("s.close()")
        server.do("c.close()")
        time.sleep(1.2)  # a closed socket with an open descriptor waits for a second
        for _ in range(5):
            for meter in both:
                meter.read()
    for host in hosts:
        assert merged.sums(host) == alone.sums(host)
        cookies = [set(meter.of(host)["cookie"].tolist()) for meter in both]
        assert cookies[0] == cookies[1]
        assert len(cookies[0]) == 201
        assert len(set(merged.of(host)["id"].tolist())) == 201
    records = [meter.cache.flush(time.monotonic_ns(), 0) for meter in both]
    assert len(records[0]) == len(records[1]) == 402
    for name in ("octets", "packets"):
        assert int(records[0][name].sum()) == int(records[1][name].sum())


@pytest.mark.parametrize("both", [True], indirect=True, ids=["with events, so without slots"])
def test_what_ebpf_has_no_storage_for(both: tuple[Meter, Meter], hosts: tuple[Host, Host]) -> None:
    """Without memory for options of sockets there is no socket storage.

    The other end still comes from eBPF.
    """
    merged, alone = both
    run("ip", "netns", "exec", hosts[0].name, "sysctl", "-qw", "net.core.optmem_max=0")
    with actors(*hosts) as (client, server):
        talk(client, server, str(hosts[1].four))
        for meter in both:
            meter.read()
        run("ip", "netns", "exec", hosts[0].name, "sysctl", "-qw", "net.core.optmem_max=131072")
        client.do("s.sendall(b'x' * 9000)")
        server.do("c.recv(9000, socket.MSG_WAITALL)")
        deadline = time.monotonic() + 120  # not every read searches processes
        while not merged.of(hosts[0])["owner"].any():
            assert time.monotonic() < deadline
            time.sleep(0.05)
            for meter in both:
                meter.read()
        client_pid, server_pid = client.pid, server.pid
        client.do("s.close()")
        server.do("c.recv(1); c.close()")
        deadline = time.monotonic() + 120  # the kernel may report the end a little later
        while not merged.of(hosts[0])["mark"][-1] & Mark.CLOSED:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            for meter in both:
                meter.read(drain=True)
        for meter in both:
            meter.read()
    assert alone.collector.losses()["storage_failed"] == 1
    assert alone.collector.losses()["unstored_datagrams"] == 0
    assert merged.collector.losses()["storage_failed"] == 0
    mine = merged.of(hosts[0])
    assert len(set(mine["id"].tolist())) == 1
    owned = mine[mine["owner"] > 0]
    assert {merged.owner(row).process.pid for row in owned} == {client_pid}
    assert (owned["owner_source"] == OwnerSource.DESCRIPTOR).all()
    assert mine["mark"][-1] & Mark.CLOSED
    assert merged.sums(hosts[1]) == alone.sums(hosts[1])
    records = merged.cache.flush(time.monotonic_ns(), 0)
    assert len(records) == 2  # one record per direction, as if from one source
    for record in records:
        pids = {
            merged.owner(record, f"{side}_owner").process.pid for side in ("source", "destination")
        }
        assert pids == {client_pid, server_pid}
    theirs = alone.cache.flush(time.monotonic_ns(), 0)
    assert abs(int(records["octets"].sum()) - int(theirs["octets"].sum())) < 300


def test_a_socket_without_storage_is_one_and_its_datagrams_are_others(
    both: tuple[Meter, Meter], hosts: tuple[Host, Host]
) -> None:
    alone = both[1]
    run("ip", "netns", "exec", hosts[0].name, "sysctl", "-qw", "net.core.optmem_max=0")
    with actors(*hosts) as (client, server):
        server.do("u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('', 7045))")
        client.do("u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
        client.do(f"[u.sendto(b'x', ('{hosts[1].four}', 7045)) for _ in range(5)]")
        server.do("[u.recv(9) for _ in range(5)]")
        alone.read()
    run("ip", "netns", "exec", hosts[0].name, "sysctl", "-qw", "net.core.optmem_max=131072")
    losses = alone.collector.losses()
    assert (losses["storage_failed"], losses["unstored_datagrams"]) == (1, 5)
