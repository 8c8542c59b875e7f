"""Tests that identities are forgotten once no flow and no socket names them."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
from unittest import mock

import numpy as np

from probe.sources import ebpf
from tests.support.meters.ebpf import Meter

_MANY = """
    import os, socket
    for _ in range(50):
        if os.fork() == 0:
            socket.create_connection(("127.0.0.1", {port})).close()
            os._exit(0)
        os.wait()
"""


def test_sweep(meter: Meter) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        port = server.getsockname()[1]
        code = textwrap.dedent(_MANY.format(port=port))
        subprocess.run([sys.executable, "-c", code], check=True)
    meter.read()
    rows = meter.rows[meter.rows["remote_port"] == port]
    owners = np.unique(rows["owner"]).tolist()
    assert len(owners) == 50
    kept = owners[0]
    with mock.patch.object(ebpf, "_SWEEP_ABOVE", 10):
        assert not set(owners) & set(meter.collector.sweep_owners({kept}))  # rows may still arrive
        released = meter.collector.sweep_owners({kept})
    assert set(owners) - {kept} <= set(released)
    assert kept not in released
    assert meter.owners[kept].process.name
    assert not meter.owners[owners[1]].process.name


_REEXEC = """
    import os, socket, sys
    left = int(sys.argv[1])
    socket.create_connection(("127.0.0.1", {port})).close()
    if left:
        os.execv(sys.executable, [sys.executable, "-S", "-c", sys.orig_argv[3], str(left - 1)])
    s = socket.create_connection(("127.0.0.1", {port}))
    d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    d.bind(("127.0.0.1", 0))
    print(d.getsockname()[1], flush=True)
    sys.stdin.readline()
    s.send(b"x")
    sys.stdin.readline()
"""


def test_a_process_that_executes_itself(meter: Meter) -> None:
    """It lives, but only its last identity has sockets. Their later traffic belongs to that one."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        port = server.getsockname()[1]
        code = textwrap.dedent(_REEXEC.format(port=port))
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", code, "40"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert child.stdout
        assert child.stdin
        datagrams = int(child.stdout.readline())
        meter.read()
        rows = meter.rows[meter.rows["remote_port"] == port]
        identities = np.unique(rows["owner"]).tolist()
        assert len(identities) == 41
        with mock.patch.object(ebpf, "_SWEEP_ABOVE", 10):
            for _ in range(2):
                released = meter.collector.sweep_owners(())
        assert len(set(identities) & set(released)) == 40
        child.stdin.write("\n")
        child.stdin.flush()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(b"x", ("127.0.0.1", datagrams))
        fresh = meter.read()
        while not (fresh["remote_port"] == port).any():
            fresh = meter.read()
        for side, number in (("remote", port), ("local", datagrams)):
            owners = fresh["owner"][fresh[f"{side}_port"] == number]
            assert {meter.owners[int(owner)].process.pid for owner in owners} == {child.pid}
        child.communicate("\n")
