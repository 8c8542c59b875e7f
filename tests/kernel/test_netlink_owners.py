"""Tests whose sockets the Netlink source meters: containers, and what any user may see."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from probe.flow.codes import OwnerSource
from tests.support.lab.hosts import Host
from tests.support.meters.actors import Actor, actors
from tests.support.meters.netlink import CGROUP, Meter, connect, exchange, netlink

ROOT = Path(__file__).resolve().parents[2]
CONTAINER = "c0ffee" * 10 + "beef"
_UNIT = "sockflow-test.service"


@pytest.fixture
def meter() -> Iterator[Meter]:
    with netlink() as found:
        yield found


def test_the_container_of_a_process(meter: Meter, hosts: tuple[Host, Host]) -> None:
    folder = CGROUP / f"docker-{CONTAINER}.scope"
    folder.mkdir()
    try:
        with actors(*hosts) as (client, server):
            (folder / "cgroup.procs").write_text(str(client.pid))
            connect(client, server, str(hosts[1].four))
            exchange(client, server, 1000)
            meter.look(*(host.name for host in hosts))
            meter.read()
            assert meter.owner(meter.of(hosts[0])[-1]).container.id == CONTAINER
            assert meter.owner(meter.of(hosts[1])[-1]).container.id == ""
    finally:
        remove(folder)


def remove(cgroup: Path) -> None:
    """Removes the cgroup once its last process has ended."""
    for _ in range(50):
        with contextlib.suppress(OSError):
            cgroup.rmdir()
            break
        time.sleep(0.05)


_UNPRIVILEGED = """
import json, os, socket, sys, time
sys.path.insert(0, os.environ["ROOT"])
import logging
logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.INFO)
from probe.sources.netlink import source as inside
from probe.sources.registry import open_source
from probe.flow.owner import OwnerTable
from probe.owners.users import UserNames
if os.environ["CONTAINERS_IN_V2"]:
    inside.has_containers_in_v1 = lambda: False
owners = OwnerTable()
collector = open_source("auto", owners, UserNames(), False)
with socket.create_server(("127.0.0.1", 0)) as server:
    client = socket.create_connection(server.getsockname())
    served, _ = server.accept()
    client.sendall(b"x" * 3000)
    served.recv(3000, socket.MSG_WAITALL)
    before = collector.losses()
    print("go", flush=True); sys.stdin.readline()
    rows = collector.read().rows
    deadline = time.monotonic() + 10  # processes younger than the latest look are waited for
    while time.monotonic() < deadline:
        collector.read()
        if collector.losses()["owners_unreadable"] >= before["owners_unreadable"] + 2:
            break
        time.sleep(0.05)
    port = server.getsockname()[1]
    client.close(); served.close()
time.sleep(0.1)
ended = collector.drain().rows
other = int(os.environ["PORT"])
mine = rows[(rows["local_port"] == port) | (rows["remote_port"] == port)]
last = ended[(ended["local_port"] == port) | (ended["remote_port"] == port)]
print(json.dumps({
    "uid": os.getuid(), "pid": os.getpid(), "octets": int(mine["tx_octets"].max()),
    "others": [[int(row["owner_source"]), owners[int(row["owner"])].unit,
                owners[int(row["owner"])].process.pid, int(row["tx_octets"] + row["rx_octets"])]
               for row in rows if other in (row["local_port"], row["remote_port"])],
    "owners": [owners[int(one)].process.pid for one in mine["owner"]],
    "ended": len(last), "kind": type(collector).__name__, "losses": collector.losses(),
    "unreadable": collector.losses()["owners_unreadable"] - before["owners_unreadable"],
}))
"""


@pytest.mark.parametrize("containers_in_v2", [True, False], ids=["v2", "hybrid"])
def test_as_any_user(hosts: tuple[Host, Host], containers_in_v2: bool) -> None:
    """Other users' connections have their units.

    They have none if only cgroup v1 names the containers.
    """
    folder = _v2() / _UNIT
    folder.mkdir()
    try:
        with actors(hosts[0], None) as (far, near):
            (folder / "cgroup.procs").write_text(str(near.pid))
            port = near.do(
                "l = socket.create_server(('127.0.0.1', 0)); result = l.getsockname()[1]"
            )
            told, said = _run_unprivileged(far, near, port, containers_in_v2)
    finally:
        remove(folder)
    shown = [(OwnerSource.CGROUP, _UNIT) if containers_in_v2 else (OwnerSource.UNKNOWN, "")] * 2
    assert [(source, unit) for source, unit, _, _ in told["others"]] == shown
    for _, _, pid, octets in told["others"]:
        assert pid is None
        assert octets > 1000
    assert told["kind"] == "NetlinkSource"
    assert told["uid"] == 65534
    assert told["owners"] == [told["pid"]] * 2
    assert 3000 < told["octets"] < 3300
    assert told["ended"] == 2
    assert told["losses"]["namespaces_unseen"] >= 1
    assert told["unreadable"] == 2
    assert "no eBPF here, metering by Netlink instead: loading eBPF needs privilege" in said
    assert "other network namespaces (needs CAP_SYS_ADMIN, CAP_SYS_PTRACE)" in said
    assert re.search(r"what \d+ processes have open \(needs CAP_SYS_PTRACE\)", said)


def _run_unprivileged(
    far: Actor, near: Actor, port: int, containers_in_v2: bool
) -> tuple[dict[str, Any], str]:
    """Returns its output and its messages; ``near`` has its own connection meanwhile."""
    far.do("result = 1")
    may_read = "-all,+dac_read_search"  # only root may read the checkout and the interpreter here
    probe = subprocess.Popen(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
         f"--inh-caps={may_read}", f"--ambient-caps={may_read}",
         sys.executable, "-c", _UNPRIVILEGED],
        env={**os.environ, "ROOT": str(ROOT), "PORT": str(port),
             "CONTAINERS_IN_V2": "yes" if containers_in_v2 else ""},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert probe.stdout
    ready = probe.stdout.readline()
    near.do("s = socket.create_connection(l.getsockname()); c, _ = l.accept()\n"
            "s.sendall(b'x' * 1000); c.recv(1000, socket.MSG_WAITALL)")  # fmt: skip
    told, said = probe.communicate("\n", timeout=180)
    assert ready == "go\n", said
    assert probe.returncode == 0, said
    return json.loads(told), said


def _v2() -> Path:
    unified = Path("/sys/fs/cgroup/unified")
    return unified if unified.exists() else unified.parent
