"""Tests sockets that wait for peers, on the real kernel."""

from __future__ import annotations

import os
import time

import numpy as np

from probe.flow.codes import OwnerSource
from probe.flow.columns import SOCKET_DTYPE
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows
from probe.owners.users import UserNames
from probe.sources.sockets import OpenSockets
from tests.support.lab.hosts import Host
from tests.support.meters.actors import TCP, UDP, Actor, actors

_LISTEN, _UNCONNECTED = 10, 7


class Watch:
    """The reported changes of one namespace's sockets."""

    def __init__(self, host: Host) -> None:
        self.owners = OwnerTable()
        self.sockets = OpenSockets(self.owners, UserNames(), budget_ns=2 * 10**9)
        self._inode = os.stat(f"/run/netns/{host.name}").st_ino
        self.rows: Rows = np.zeros(0, SOCKET_DTYPE)

    def until(self, count: int) -> Rows:
        """Waits until there are ``count`` rows, and returns all."""
        deadline = time.monotonic() + 120
        while len(self.rows) < count:
            assert time.monotonic() < deadline, self.rows
            rows = self.sockets.changes()
            self.rows = np.concatenate([self.rows, rows[rows["netns_inode"] == self._inode]])
            time.sleep(0.02)
        assert len(self.rows) == count
        return self.rows


def open_all(actor: Actor) -> None:
    actor.do(
        "a = socket.create_server(('', 7000), backlog=4)\n"
        "b = socket.create_server(('fd77::1', 7002), family=socket.AF_INET6)\n"
        "c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); c.bind(('10.77.0.1', 7001))\n"
        "c.sendto(b'x', ('10.77.0.1', 7001))\n"
        "d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); d.connect(('10.77.0.2', 9))\n"
        "e = socket.socket(); e.bind(('', 7003)); f = socket.create_connection(('10.77.0.1', 7000))"
    )


def test_sockets_come_and_go(hosts: tuple[Host, Host]) -> None:
    watch = Watch(hosts[0])
    with actors(hosts[0]) as (actor,):
        open_all(actor)  # connected and merely bound sockets wait for no peers
        came = watch.until(3)
        assert {(int(row["protocol"]), int(row["local_port"]), int(row["ip_version"]),
                 int(row["tcp_state"])) for row in came} == {
            (TCP, 7000, 4, _LISTEN), (TCP, 7002, 6, _LISTEN), (UDP, 7001, 4, _UNCONNECTED)
        }  # fmt: skip
        by_port = {int(row["local_port"]): row for row in came}
        assert bytes(by_port[7001]["local_address"]) == hosts[0].four.packed + bytes(12)
        assert bytes(by_port[7002]["local_address"]) == hosts[0].six.packed
        assert by_port[7001]["receive_queue"] > 0
        assert by_port[7000]["receive_queue"] == 1  # connections that wait for accept
        assert not came["gone"].any()
        assert (came["owner_source"] == OwnerSource.DESCRIPTOR).all()
        assert {watch.owners[int(row["owner"])].process.pid for row in came} == {actor.pid}
        actor.do("b.close(); c.connect(('10.77.0.2', 9))")
        left = watch.until(5)[3:]
        assert (left["gone"] == 1).all()
        assert sorted(left["local_port"].tolist()) == [7001, 7002]
        assert (left["owner"] == came["owner"][0]).all()
    assert watch.until(6)["local_port"][-1] == 7000


def test_nothing_stays_open(hosts: tuple[Host, Host]) -> None:
    watch = Watch(hosts[0])
    here = os.stat("/proc/thread-self/ns/net").st_ino
    with actors(hosts[0]) as (actor,):
        open_all(actor)
        before = len(os.listdir("/proc/self/fd"))
        watch.until(3)
        assert len(os.listdir("/proc/self/fd")) == before
    assert os.stat("/proc/thread-self/ns/net").st_ino == here


def test_an_early_call_costs_nothing(hosts: tuple[Host, Host]) -> None:
    """One per cent of a core is used: a read of 10 ms is followed by a second without any."""
    with actors(hosts[0]) as (actor,):
        open_all(actor)
        watch = Watch(hosts[0])
        started = time.process_time()
        assert len(watch.sockets.changes()) >= 3
        took = time.process_time() - started
        actor.do("g = socket.create_server(('', 7005))")
        looked = time.monotonic()
        while not len(watch.sockets.changes()):
            assert time.monotonic() < looked + 30
            time.sleep(0.01)
        assert time.monotonic() - looked > 50 * took
