"""Tests when the kernel half announces rows to read, and when it has none."""

from __future__ import annotations

import os
import select
import socket

import numpy as np
import pytest

from tests.support.lab.hosts import Host
from tests.support.meters.ebpf import Meter

TCP = 6
#: Both ends of each make more rows than the reader is woken for, and fewer than a ring holds.
CONNECTIONS = 3000


def connect_often(hosts: tuple[Host, Host], count: int = CONNECTIONS) -> None:
    a, b = hosts
    b.start_traffic("serve", 7000)
    a.traffic("short", b.four, 7000, count)
    b.stop()


def is_told(meter: Meter, patience_s: float = 5.0) -> bool:
    return bool(select.select([meter.collector], [], [], patience_s)[0])


def ends(meter: Meter, hosts: tuple[Host, Host]) -> int:
    return sum(len(np.unique(meter.of(host, TCP)["id"])) for host in hosts)


def test_who_reads_in_time_loses_nothing(meter: Meter, hosts: tuple[Host, Host]) -> None:
    """More rows than a ring holds come, and the reader reads only when the kernel half wakes it."""
    a, b = hosts
    count = 15_000
    b.start_traffic("serve", 7000)
    meter.forget()
    running = a.begin_traffic("short", b.four, 7000, count, "--parallel", 4)
    while running.poll() is None:
        if is_told(meter, 0.2):
            meter.rows = np.concatenate([meter.rows, meter.collector.drain().rows])
    assert running.returncode == 0
    b.stop()
    assert ends(meter, hosts) > 2 * count - CONNECTIONS, "all but the last, not enough to tell of"
    meter.read()
    assert ends(meter, hosts) == 2 * count
    assert meter.collector.losses()["flow_ring_full"] == 0


def test_a_reader_is_told_of_owners_too(meter: Meter) -> None:
    """Processes open a socket and send nothing, so each is an identity without a flow."""
    meter.forget()
    assert not is_told(meter, 0)
    for _ in range(400):  # the ring holds 590
        if not (pid := os.fork()):
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            os._exit(0)
        os.waitpid(pid, 0)
    assert is_told(meter)
    assert meter.collector.losses()["owner_ring_full"] == 0


def test_what_is_told_during_a_read_is_no_answer_that_is_waited_for(
    meter: Meter, hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rings are empty when select() looks, so it reports nothing and forgets the call."""
    ring = meter.collector._flow_ring
    real_read = ring.read

    def read():  # type: ignore[no-untyped-def]
        rows = real_read()
        meter.collector._woken[0] = 1  # as the kernel does when a ring has enough
        return rows

    monkeypatch.setattr(ring, "read", read)
    meter.read()
    monkeypatch.undo()
    assert not is_told(meter, 0)
    connect_often(hosts)
    assert is_told(meter)


def test_after_the_last_read_nothing_is_metered(meter: Meter, hosts: tuple[Host, Host]) -> None:
    connect_often(hosts, 10)
    meter.rows = np.concatenate([meter.rows, meter.collector.read(is_last=True).rows])
    assert ends(meter, hosts) == 20
    connect_often(hosts)
    assert not is_told(meter, 0)
    meter.read()
    assert ends(meter, hosts) == 20
    assert not any(meter.collector.losses().values())
