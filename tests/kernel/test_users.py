"""Tests which process uses a UDP socket. Often it is not the one that made it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import numpy as np
import pytest

from probe.flow.codes import OwnerSource
from probe.flow.owner import Owner
from probe.flow.rows import Rows
from tests.support.meters.ebpf import Meter

_HEAD = """
import json, os, select, signal, socket, sys, time
def tell(*pids):
    print(json.dumps([u.getsockname()[1], *pids]), flush=True)
def bound():
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.bind(("127.0.0.1", 0))
    return u
"""
#: Ways of a socket from its maker to its server. Each ends in a process that reports its pid.
_HANDOVERS = {
    "daemon": """
        u = bound()
        if os.fork(): os._exit(0)
        os.setsid()
    """,
    "setuid": """
        u = bound()
        os.setgid(65534); os.setuid(65534)
    """,
    "exec": """
        if len(sys.argv) == 1:
            u = bound(); os.set_inheritable(u.fileno(), True)
            os.execv(sys.executable, [sys.executable, "-S", "-c", CODE, str(u.fileno())])
        u = socket.socket(fileno=int(sys.argv[1]))
    """,
    "another's": """
        a, b = socket.socketpair()
        if os.fork():
            b.close(); u = bound(); socket.send_fds(a, [b"x"], [u.fileno()]); u.close()
            a.recv(1); os._exit(0)
        a.close(); u = socket.socket(fileno=socket.recv_fds(b, 9, 1)[1][0])
    """,
    "worker": """
        u = bound()
        if os.fork(): signal.pause()
    """,
}
_SERVE = {
    "answers": "while True: d, p = u.recvfrom(999); u.sendto(d, p)",
    "waits in recv": "while True: u.recv(999)",
    "waits in poll": "p = select.poll(); p.register(u, 1)\nwhile True: p.poll(); u.recv(999)",
    "waits in select": "while True: select.select([u], [], []); u.recv(999)",
    "waits in epoll": "p = select.epoll(); p.register(u, 1)\nwhile True: p.poll(); u.recv(999)",
}


@contextlib.contextmanager
def running(code: str) -> Iterator[list[int]]:
    """Yields the numbers that the process reports. It and its children end with the test."""
    code = f"{_HEAD}CODE = {code!r}\n{code}" if "CODE" in code else _HEAD + code
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert child.stdout
    told = json.loads(child.stdout.readline())
    try:
        yield told
    finally:
        for pid in told[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()


def server(handover: str, serve: str) -> str:
    code = textwrap.dedent(_HANDOVERS[handover]) + "tell(os.getpid())\n" + _SERVE[serve]
    return code if handover != "exec" else _HEAD + "CODE = sys.orig_argv[3]\n" + code


def rows_at(meter: Meter, port: int) -> Rows:
    found: Rows = meter.rows[meter.rows["local_port"] == port]
    return found


def owners_at(meter: Meter, port: int) -> list[Owner]:
    return [meter.owners[index] for index in np.unique(rows_at(meter, port)["owner"]).tolist()]


def wait_until_asleep(pid: int) -> None:
    """Waits until the process sleeps, as a server without requests.

    Only then is it known what it waits for.
    """
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            if stat.read().rpartition(")")[2].split()[0] == "S":
                return
        time.sleep(0.01)
    raise AssertionError("the server is always at work")


@pytest.mark.parametrize("serve", _SERVE)
@pytest.mark.parametrize("probe", ["before", "after"])
def test_who_serves_is_named(probe: str, serve: str) -> None:
    """The probe saw the socket handed over, or came later."""
    with contextlib.ExitStack() as stack:
        meter = Meter() if probe == "before" else None
        servers = {
            handover: stack.enter_context(running(server(handover, serve)))
            for handover in _HANDOVERS
        }
        meter = meter or Meter()
        stack.callback(meter.collector.close)
        for port, pid in servers.values():
            wait_until_asleep(pid)
            ask(port, is_answered=serve == "answers")
            wait_until_asleep(pid)
        meter.read()
        for handover, (port, pid) in servers.items():
            uid = os.stat(f"/proc/{pid}").st_uid
            named = [(who.process.pid, who.process.uid) for who in owners_at(meter, port)]
            assert named == [(pid, uid)], handover
            assert rows_at(meter, port)["rx_packets"].sum() == 3


def ask(port: int, is_answered: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(120)
        client.connect(("127.0.0.1", port))
        for _ in range(3):
            client.send(b"q")
            if is_answered:
                client.recv(9)


def test_a_socket_that_changes_hands_after_use(meter: Meter) -> None:
    """The first process keeps what it sent and received."""
    code = """
    u = bound(); tell(os.getpid())
    for _ in range(2): d, p = u.recvfrom(999); u.sendto(d, p)
    if os.fork(): signal.pause()
    u.sendto(str(os.getpid()).encode(), p)
    while True: d, p = u.recvfrom(999); u.sendto(d, p)
    """
    with (
        running(textwrap.dedent(code)) as (port, first),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(120)
        client.connect(("127.0.0.1", port))
        for _ in range(2):
            client.send(b"q")
            client.recv(9)
        second = int(client.recv(99))
        for _ in range(3):
            client.send(b"q")
            client.recv(9)
        meter.read()
        os.kill(second, signal.SIGKILL)
    packets: dict[int | None, list[int]] = {}
    for row in rows_at(meter, port):
        who = meter.owners[int(row["owner"])].process.pid
        sums = packets.setdefault(who, [0, 0])
        sums[0] += int(row["rx_packets"])
        sums[1] += int(row["tx_packets"])
    assert packets == {first: [2, 2], second: [3, 4]}


def test_workers_that_take_turns(meter: Meter) -> None:
    """One of them is named, the source shows that there are several, and rows stay few."""
    code = """
    u = bound(); children = []
    for _ in range(3):
        child = os.fork()
        if not child:
            while True: d, p = u.recvfrom(999); u.sendto(d, p)
        children.append(child)
    tell(*children); signal.pause()
    """
    with (
        running(textwrap.dedent(code)) as (port, *workers),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(120)
        client.connect(("127.0.0.1", port))
        for _ in range(600):
            client.send(b"q")
            client.recv(9)
        meter.read()
        for _ in range(100):
            client.send(b"q")
            client.recv(9)
        fresh = meter.read()
        (row,) = fresh[fresh["local_port"] == port]
        assert row["owner_source"] == OwnerSource.SHARED
        assert meter.owners[int(row["owner"])].process.pid in workers
        rows = rows_at(meter, port)
        assert (rows["rx_packets"].sum(), rows["tx_packets"].sum()) == (700, 700)
        assert len(rows) <= 8
        assert {meter.owners[int(index)].process.pid for index in rows["owner"]} <= set(workers)
