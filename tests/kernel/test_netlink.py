"""Tests the Netlink source on the real kernel, against nft and the eBPF source."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyroute2 import DiagSocket

from probe.flow.codes import Mark, OwnerSource, Role
from probe.flow.owner import Owner, OwnerTable
from probe.flow.rows import Rows
from probe.netlink.inet_diag import STATES
from probe.owners.users import UserNames
from probe.sources.ebpf import EbpfSource
from probe.sources.netlink import NetlinkSource
from tests.support.lab.hosts import Counted, Host
from tests.support.meters.actors import TCP, UDP, Actor, actors
from tests.support.meters.netlink import Meter, connect, exchange, netlink

#: Our columns and their names in pyroute2.
_PYROUTE2 = {
    "state": "idiag_state", "local_port": "idiag_sport", "remote_port": "idiag_dport",
    "interface": "idiag_if", "receive_queue": "idiag_rqueue", "send_queue": "idiag_wqueue",
    "uid": "idiag_uid", "inode": "idiag_inode", "options": "tcpi_options",
    "unacknowledged": "tcpi_unacked", "lost": "tcpi_lost", "rtt_us": "tcpi_rtt",
    "rtt_var_us": "tcpi_rttvar", "window": "tcpi_snd_cwnd", "retransmitted": "tcpi_total_retrans",
    "pacing_rate": "tcpi_pacing_rate", "delivery_rate": "tcpi_delivery_rate",
    "acknowledged": "tcpi_bytes_acked", "received": "tcpi_bytes_received",
    "segments_out": "tcpi_segs_out", "segments_in": "tcpi_segs_in",
    "data_segments_in": "tcpi_data_segs_in", "data_segments_out": "tcpi_data_segs_out",
    "sent": "tcpi_bytes_sent", "resent": "tcpi_bytes_retrans", "out_of_order": "tcpi_rcv_ooopack",
}  # fmt: skip

_SAME_OWNER = (
    "process.name", "process.path", "process.uid", "process.gid", "process.user_name",
    "parent.pid", "parent.name", "parent.path", "parent.uid", "parent.gid", "parent.user_name",
    "cgroup", "container.id", "unit",
)  # fmt: skip


@pytest.fixture
def meter() -> Iterator[Meter]:
    with netlink() as found:
        yield found


@pytest.fixture
def other() -> Iterator[Meter]:
    """Yields a meter with the eBPF source on the same traffic."""
    found = Meter(EbpfSource(OwnerTable(), UserNames()))
    yield found
    found.collector.close()


def sums(rows: Rows) -> tuple[Counted, Counted]:
    """Returns (sent, received)."""
    return (
        Counted(int(rows["tx_packets"].sum()), int(rows["tx_octets"].sum())),
        Counted(int(rows["rx_packets"].sum()), int(rows["rx_octets"].sum())),
    )


def assert_close(measured: Counted, truth: Counted, share: float = 0.01) -> None:
    assert truth.packets
    assert abs(measured.packets - truth.packets) <= max(1, share * truth.packets), (measured, truth)
    assert abs(measured.octets - truth.octets) <= share * truth.octets, (measured, truth)


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_a_connection_that_lives_over_dumps(
    meter: Meter, other: Meter, hosts: tuple[Host, Host], six: bool
) -> None:
    address = str(hosts[1].six if six else hosts[1].four)
    with actors(*hosts) as (client, server):
        meter.look(*(host.name for host in hosts))
        other.read()
        for host in hosts:
            host.reset_counters()
        connect(client, server, address)
        for _ in range(4):
            exchange(client, server, 2_000_000)
            meter.read()
            other.read()
        time.sleep(0.1)
        meter.read()
        other.read()
        for host, peer, actor in zip(hosts, hosts[::-1], (client, server), strict=True):
            # received packets: nft sees sent ones before they are segmented
            assert_close(sums(meter.of(host))[0], peer.counted()["tcp_in"])
            assert_close(sums(meter.of(host))[1], host.counted()["tcp_in"])
            for mine, theirs in zip(sums(meter.of(host)), sums(other.of(host)), strict=True):
                assert_close(mine, theirs)
            row, its = meter.of(host)[-1], other.of(host)[-1]
            for name in ("local_address", "remote_address", "local_port", "remote_port", "role",
                         "ip_version", "tcp_state", "netns", "netns_inode", "cookie"):  # fmt: skip
                assert (row[name] == its[name]).all(), name
            assert row["owner_source"] == OwnerSource.DESCRIPTOR
            assert meter.owner(row).process.pid == actor.pid == other.owner(its).process.pid
            for name in _SAME_OWNER:
                value = attrgetter(name)
                assert value(meter.owner(row)) == value(other.owner(its)), name
            assert_memory(meter.owner(row), other.owner(its))
            # both read after the last segment, so they agree
            for name in ("unacknowledged", "congestion_window", "pacing_rate", "delivery_rate"):
                assert row[name] == its[name], name
            assert row["congestion_window"] > 0
            assert row["pacing_rate"] > 0
            assert row["delivery_rate"] > 0
            assert row["unacknowledged"] == 0
        assert len(set(meter.of(hosts[0])["id"].tolist())) == 1
        records = meter.records()
        inodes = [os.stat(f"/run/netns/{host.name}").st_ino for host in hosts]
        ours = records[np.isin(records["source_netns_inode"], inodes)]
        assert len(ours) == 2  # one record per direction, both with both ends
        assert (ours["source_owner"] > 0).all()
        assert (ours["destination_owner"] > 0).all()
        assert (ours["pacing_rate"] > 0).all()
        assert (ours["delivery_rate"] > 0).all()
        assert (ours["congestion_window"] > 0).all()


def assert_memory(now: Owner, at_connect: Owner) -> None:
    """Checks the process' memory now and at its connect. Its parent is this process."""
    for owner in (now, at_connect):
        assert 1000 < (owner.process.vm_size or 0) <= (owner.process.vm_peak or 0)
        assert 1000 < (owner.parent.vm_size or 0) <= (owner.parent.vm_peak or 0)
    assert (at_connect.process.vm_size or 0) <= (now.process.vm_size or 0)
    here = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(here["VmPeak"].split()[0])
    assert 0.7 * peak < (at_connect.parent.vm_peak or 0) <= (now.parent.vm_peak or 0) <= peak


def test_lost_segments_are_a_part_of_what_was_lost(
    meter: Meter, other: Meter, hosts: tuple[Host, Host]
) -> None:
    """tcp_info has the segments that are lost at the time of a dump; eBPF counts all."""
    with actors(*hosts) as (client, server):
        meter.look(*(host.name for host in hosts))
        connect(client, server, str(hosts[1].four))
        hosts[1].lose(30)
        client.do(
            "import threading\n"
            "done = False\n"
            "def give():\n"
            "    while not done: s.sendall(b'x' * 500_000)\n"
            "    s.close()\n"
            "t = threading.Thread(target=give); t.start()"
        )
        server.do(
            "import threading\n"
            "def take():\n"
            "    while c.recv(1 << 20): pass\n"
            "u = threading.Thread(target=take); u.start()"
        )
        deadline = time.monotonic() + 120
        while not (meter.of(hosts[0])["lost"].any() and meter.of(hosts[0])["unacknowledged"].any()):
            assert time.monotonic() < deadline
            meter.read()
        client.do("done = True; t.join()")
        server.do("u.join()")
        meter.read()
        other.read()
    seen, all_lost = (int(one.of(hosts[0])["lost"].sum()) for one in (meter, other))
    assert 0 < seen <= all_lost


def test_columns_are_what_pyroute2_reads(meter: Meter) -> None:
    """pyroute2 reads the same messages, on the sockets of this namespace."""
    with actors(None) as (actor,):
        actor.do(
            "l = socket.create_server(('127.0.0.1', 0)); m = socket.create_server(('::1', 0),"
            " family=socket.AF_INET6)\n"
            "ends = []\n"
            "for listener in (l, m):\n"
            "    end = socket.create_connection(listener.getsockname()[:2]); ends.append(end)\n"
            "    far, _ = listener.accept(); ends.append(far); end.sendall(b'x' * 3000)\n"
            "    far.recv(1000)"
        )
        time.sleep(0.3)  # no packet is on its way, and no timer runs
        collector = meter.collector
        assert isinstance(collector, NetlinkSource)
        ours = {int(one["cookie"]): one for one in collector.list_sockets(TCP)}
        theirs: list[dict[str, Any]] = []
        with DiagSocket() as diag:
            diag.bind()
            for family in (socket.AF_INET, socket.AF_INET6):
                extensions = 1 << 1 | 1 << 6
                theirs += diag.get_sock_stats(family=family, states=STATES, extensions=extensions)
    both = [(ours[one["idiag_cookie"]], one) for one in theirs if one["idiag_cookie"] in ours]
    assert len(both) >= 6
    for mine, one in both:
        info = dict(one["attrs"])["INET_DIAG_INFO"]
        for name, its in _PYROUTE2.items():
            assert mine[name] == (one[its] if its in one else info[its]), name
        assert mine["cgroup"] == dict(one["attrs"]).get("INET_DIAG_CGROUP_ID", 0)
        memory = bytes.fromhex(dict(one["attrs"])["INET_DIAG_SKMEMINFO"].replace(":", ""))
        words = struct.unpack("=9I", memory)
        found = (mine["receive_memory"], mine["send_memory"], mine["drops"])
        assert found == (words[0], words[2], words[8])
        size = 16 if one["idiag_family"] == socket.AF_INET6 else 4
        for side, its in (("local", "idiag_src"), ("remote", "idiag_dst")):
            assert bytes(mine[side])[:size] == ip_address(one[its]).packed


def test_duplicates_count_at_their_receiver(meter: Meter, hosts: tuple[Host, Host]) -> None:
    with actors(*hosts) as (client, server):
        meter.look(*(host.name for host in hosts))
        for host in hosts:
            host.reset_counters()
        connect(client, server, str(hosts[1].four))
        hosts[0].lose(100)  # loses acknowledgements, so some segments are sent again in vain
        for sent in range(500_000, 15_000_000, 500_000):
            exchange(client, server, 500_000)
            meter.read()
            rows = meter.of(hosts[1])
            header = 52 * int(rows["rx_packets"].sum())  # and 8 for the SYN
            if int(rows["rx_octets"].sum()) - header - 8 > sent:
                break
        else:
            pytest.fail("no segment was sent twice")
        assert_close(sums(rows)[1], hosts[1].counted()["tcp_in"])
        assert (rows["mark"] & Mark.ESTIMATED).any()


def test_mapped_addresses_are_ipv4(meter: Meter, hosts: tuple[Host, Host]) -> None:
    with actors(*hosts) as (client, server):
        server.do("l = socket.create_server(('::', 7000), family=socket.AF_INET6,"
                  " dualstack_ipv6=True)")  # fmt: skip
        client.do(f"s = socket.create_connection(('{hosts[1].four}', 7000), 5); s.sendall(b'x')")
        server.do("c, _ = l.accept(); c.recv(1)")
        meter.look(hosts[1].name)
    (row,) = meter.of(hosts[1])
    assert row["ip_version"] == 4
    assert bytes(row["remote_address"]) == hosts[0].four.packed + bytes(12)


def test_older_sockets_count_from_the_start(hosts: tuple[Host, Host]) -> None:
    with actors(*hosts) as (client, server):
        connect(client, server, str(hosts[1].four))
        exchange(client, server, 100_000)
        with netlink() as meter:
            assert not len(meter.of(hosts[0]))
            client.do("s.sendall(b'z' * 1000)")
            server.do("c.recv(1000, socket.MSG_WAITALL)")
            meter.read()
            (row,) = meter.of(hosts[0])
            assert row["mark"] & Mark.PREEXISTING
            assert (row["tx_packets"], row["tx_octets"]) == (1, 1052)
            assert row["role"] == Role.INITIATOR
            assert meter.owner(row).process.pid == client.pid


def test_connections_that_end_between_dumps(meter: Meter, hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    there.start_traffic("serve", 7000)
    with actors(here) as (actor,):
        actor.do("result = 1")
        meter.look(here.name, there.name)
        for _ in range(10):  # each has some milliseconds to find the listener's owner
            meter.read()
        meter.rows = meter.rows[:0]
        for host in hosts:
            host.reset_counters()
        here.traffic("short", there.four, 7000, 400)
        assert select.select([meter.collector], [], [], 5)[0]
        meter.drain()
        time.sleep(0.2)
        meter.read()
    for host, role in ((here, Role.INITIATOR), (there, Role.RESPONDER)):
        rows = meter.of(host)
        ended = rows[rows["mark"] & Mark.CLOSED > 0]
        assert len(set(ended["id"].tolist())) == len(ended) == 400
        assert (rows["role"] == role).all()
        sent, received = sums(rows)
        truth = host.counted()
        assert_close(sent, truth["tcp_out"], 0.12)  # no counter has the last segments
        assert_close(received, truth["tcp_in"], 0.12)
    server = meter.of(there)
    assert (server["owner_source"] == OwnerSource.LISTENER).sum() > 300
    records = meter.records()
    inodes = [os.stat(f"/run/netns/{host.name}").st_ino for host in hosts]
    assert len(records[np.isin(records["source_netns_inode"], inodes)]) == 800
    assert meter.collector.losses()["ending_bursts_lost"] == 0


def test_final_counters_of_a_connection_that_was_seen(
    meter: Meter, hosts: tuple[Host, Host]
) -> None:
    with actors(*hosts) as (client, server):
        connect(client, server, str(hosts[1].four))
        meter.look(*(host.name for host in hosts))
        exchange(client, server, 500_000)
        client.do("s.close()")
        server.do("c.recv(1); c.close()")
        deadline = time.monotonic() + 120  # the kernel may report the ends a little later
        while not all((meter.of(host)["mark"] & Mark.CLOSED).any() for host in hosts):
            assert time.monotonic() < deadline
            time.sleep(0.05)
            meter.drain()
        for host, peer in (hosts, hosts[::-1]):
            rows = meter.of(host)
            assert len(set(rows["id"].tolist())) == 1
            assert rows["mark"][-1] & Mark.CLOSED
            assert_close(sums(rows)[0], peer.counted()["tcp_in"], 0.02)
        assert meter.owner(meter.of(hosts[0])[-1]).process.pid == client.pid
        count = len(meter.rows)
        for _ in range(3):
            meter.read()
        mine = meter.rows[count:]
        assert not np.isin(mine["netns_inode"], meter.of(hosts[0])["netns_inode"]).any()


def test_listeners_and_udp_become_no_flows(meter: Meter, hosts: tuple[Host, Host]) -> None:
    with actors(hosts[0]) as (actor,):
        actor.do(
            "l = socket.create_server(('', 7000))\n"
            "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('', 7001))\n"
            "u.sendto(b'x', ('10.77.0.1', 7001))"
        )
        meter.look(hosts[0].name)
        meter.read()
        assert not len(meter.of(hosts[0]))
        collector = meter.collector
        assert isinstance(collector, NetlinkSource)
        listed = {protocol: collector.list_sockets(protocol) for protocol in (TCP, UDP)}
        assert 7000 in listed[TCP]["local_port"]
        assert 7001 in listed[UDP]["local_port"]
        assert listed[UDP][listed[UDP]["local_port"] == 7001]["receive_queue"].sum() > 0


def test_namespaces_come_and_go(meter: Meter) -> None:
    name = "snlgone"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        inode = os.stat(f"/run/netns/{name}").st_ino
        actor = Actor("ip", "netns", "exec", name, sys.executable)
        actor.do("import subprocess; subprocess.run(['ip', 'link', 'set', 'lo', 'up'])")
        actor.do("l = socket.create_server(('127.0.0.1', 0))\n"
                 "s = socket.create_connection(l.getsockname()); c, _ = l.accept()\n"
                 "s.sendall(b'x' * 5000)")  # fmt: skip
        meter.look(name)
        seen = meter.rows[meter.rows["netns_inode"] == inode]
        assert len(seen) == 2
        assert seen["tx_octets"].sum() > 5000  # counted from the beginning
        actor.leave()
        meter.look_away(inode)
        last = meter.rows[meter.rows["netns_inode"] == inode]
        assert (last["mark"] & Mark.CLOSED > 0).sum() == 2
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_nothing_leaks(meter: Meter, hosts: tuple[Host, Host]) -> None:
    def descriptors() -> int:
        """Returns the number of descriptors without two for each namespace.

        Namespaces may come and go meanwhile.
        """
        collector = meter.collector
        assert isinstance(collector, NetlinkSource)
        return len(os.listdir("/proc/self/fd")) - 2 * len(collector.namespaces)

    before = os.stat("/proc/thread-self/ns/net").st_ino
    inode = os.stat(f"/run/netns/{hosts[0].name}").st_ino
    meter.read()
    first = descriptors()
    tasks = len(os.listdir("/proc/self/task"))
    for _ in range(10):
        with actors(hosts[0]) as (actor,):
            actor.do("result = 1")
            meter.look(hosts[0].name)
            for _ in range(20):
                meter.read()
        meter.look_away(inode)
    assert descriptors() == first
    deadline = time.monotonic() + 5  # a joined thread may still be ending
    while len(os.listdir("/proc/self/task")) != tasks:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert threading.active_count() == 1
    for task in os.listdir("/proc/self/task"):
        assert os.stat(f"/proc/self/task/{task}/ns/net").st_ino == before


def test_refused_connections_are_seen_while_they_try(
    meter: Meter, hosts: tuple[Host, Host]
) -> None:
    with actors(hosts[0]) as (actor,):
        actor.do("s = socket.socket(); s.setblocking(False)\n"
                 "s.connect_ex(('10.77.0.99', 9))")  # fmt: skip
        meter.look(hosts[0].name)
        row = meter.of(hosts[0])[0]
        assert row["role"] == Role.INITIATOR
        assert row["tx_packets"] >= 1
        assert row["tx_octets"] == 60 * row["tx_packets"]
        assert row["rx_packets"] == 0
        actor.do("s.close()")
        deadline = time.monotonic() + 10  # the close waits for the SYN, and the SYN for ARP
        while not meter.of(hosts[0])["mark"][-1] & Mark.CLOSED:
            assert time.monotonic() < deadline
            time.sleep(0.1)
            meter.drain()
        assert meter.of(hosts[0])["remote_port"][-1] == 9
