"""Identities do not pile up: those of ended processes are forgotten once no flow names them."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
from unittest import mock

import numpy as np
from conftest import Meter

from probe.collectors import ebpf

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
        released = meter.collector.sweep_owners({kept})
    assert set(owners) - {kept} <= set(released)
    assert kept not in released
    assert meter.owners[kept].process_name
    assert not meter.owners[owners[1]].process_name
