"""A host of containers that do nothing: what the probe needs all the same, with names from Docker
and from Kubernetes. Docker is real; the Kubernetes API is that of the tests.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.process import Started, running
from bench.report import progress, table
from bench.sink import Sink, sink
from tests.support.kubernetes_api import PODS, SERVICES, Object, kubernetes_server, recorded
from tests.support.lab.docker import IMAGE, Docker, docker_daemon
from tests.support.lab.hosts import Host, inside, two_hosts

CONTAINERS = 100
_NODE, _PODS_OF_NODE, _PODS, _SERVICES = "node-3", 110, 1000, 200
#: So that start and first looks are over.
_SETTLED_S = 12.0


def measure(seconds: float) -> str:
    with (
        tempfile.TemporaryDirectory(prefix="sockflow-bench-") as folder,
        two_hosts("bi") as (_, host),
        docker_daemon(host, Path(folder)) as docker,
        _kubernetes(host, Path(folder)) as options,
    ):
        docker_only = ("--docker", docker.url, "--no-kubernetes")
        both = ("--docker", docker.url, *options)
        rows = [_one("none, Docker", host, docker_only, seconds)]
        _fill(docker)
        rows.append(_one(f"{CONTAINERS}, Docker", host, docker_only, seconds))
        rows.append(_one(f"{CONTAINERS}, Docker and Kubernetes", host, both, seconds))
    head = [
        "containers, names",
        "user CPU, % of a core",
        "system CPU",
        "VmRSS",
        "peak (VmHWM)",
        "Data Records/s of others",
    ]
    return table(head, rows) + (
        f"\n\nOver {seconds:g} s; each container is a `sleep` behind a veth. Kubernetes: "
        f"{_PODS_OF_NODE} Pods of this node, and with --kubernetes-remote {_PODS} in all and "
        f"{_SERVICES} Services. The last column is what the rest of the machine did meanwhile, and "
        "options: where it is large, the machine was not idle."
    )


def _fill(docker: Docker) -> None:
    progress(f"idle: starting {CONTAINERS} containers")
    with ThreadPoolExecutor(4) as pool:
        started = pool.map(lambda _: docker.start(IMAGE, "sleep", "900"), range(CONTAINERS))
        assert len(set(started)) == CONTAINERS


def _one(title: str, host: Host, options: tuple[str, ...], seconds: float) -> list[str]:
    with _probe(host, options) as (process, target):
        time.sleep(_SETTLED_S)
        target.drain()
        before, records, started = process.cpu_time(), target.records, time.monotonic()
        time.sleep(seconds)
        after, elapsed = process.cpu_time(), time.monotonic() - started
        process.check()
        target.drain()
        resident, peak = process.memory_kib("VmRSS"), process.memory_kib("VmHWM")
    user = (after.user_s - before.user_s) / elapsed
    system = (after.system_s - before.system_s) / elapsed
    progress(f"idle: {title}: user {user:.2%}, system {system:.2%}, {resident} KiB")
    sent = f"{(target.records - records) / elapsed:.1f}"
    return [title, f"{user:.2%}", f"{system:.2%}", _mb(resident), _mb(peak), sent]


@contextlib.contextmanager
def _probe(host: Host, options: tuple[str, ...]) -> Iterator[tuple[Started, Sink]]:
    """In the network namespace of Docker's host, as is where it exports to."""
    with inside(host.name):
        made = sink()
        target = made.__enter__()
    with contextlib.closing(target):
        network = f"--net=/run/netns/{host.name}"
        command = ["nsenter", network, sys.executable, "-m", "probe", "run", "-e", target.url]
        with running([*command, *options]) as process:
            target.wait()
            yield process, target


@contextlib.contextmanager
def _kubernetes(host: Host, folder: Path) -> Iterator[tuple[str, ...]]:
    """Settings of a probe that asks an API on the host."""
    with kubernetes_server() as server:
        server.stop()
        with inside(host.name):
            server.start()
        for number in range(_PODS):
            server.put(PODS, _copy("web", number, _NODE if number < _PODS_OF_NODE else "other"))
        for number in range(_SERVICES):
            server.put(SERVICES, _copy("service", number, ""))
        yield (
            "--kubernetes", str(server.kubeconfig(folder)),
            "--kubernetes-node", _NODE, "--kubernetes-remote",
        )  # fmt: skip


def _copy(name: str, number: int, node: str) -> Object:
    """Another one like it, with a name and an address of its own."""
    found = copy.deepcopy(recorded(name))
    found["metadata"] |= {"uid": f"{name}-{number}", "name": f"{name}-{number}"}
    high, low = divmod(number, 250)
    if name == "service":
        found["spec"]["clusterIP"] = f"10.96.{high}.{low + 1}"
        found["spec"].pop("clusterIPs", None)
    else:
        found["spec"]["nodeName"] = node
        address = f"10.244.{high}.{low + 1}"
        found["status"] |= {"podIP": address, "podIPs": [{"ip": address}]}
    return found


def _mb(kib: int) -> str:
    return f"{kib * 1024 / 1e6:.1f} MB"
