"""Measures the resident memory of the probe with names of containers.

The servers of the tests stand in for the APIs of Docker and Kubernetes.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
import time
from pathlib import Path

from bench.contestants import probe
from bench.network import SUBNET
from bench.process import wait_until
from bench.report import progress, table
from bench.sink import sink
from tests.support.kubernetes_api import PODS, KubernetesServer, Object, kubernetes_server, recorded
from tests.unit.test_docker_api import Api, Daemon

_HERE = 110  # Pods of a node: the default limit of kubelets
_SETTLED_S = 4.0
_PADDING = ["x" * 100] * 60  # stands for the parts of a Pod that are not kept


def measure(elsewhere: int) -> str:
    """Measures with ``elsewhere`` Pods on other nodes."""
    remote = ("--kubernetes-remote",)
    rows = [
        ["neither", *_measure(0, ("--no-docker", "--no-kubernetes"))],
        [f"both, {_HERE} Pods here", *_measure(0)],
        [f"and {elsewhere:,} elsewhere (--kubernetes-remote)", *_measure(elsewhere, remote)],
    ]
    return table(["names", "VmRSS", "peak (VmHWM)"], rows)


def _measure(elsewhere: int, options: tuple[str, ...] = ()) -> list[str]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        docker = Api(folder / "docker.sock", Daemon())
        stack.callback(docker.close)
        server = stack.enter_context(kubernetes_server())
        for number in range(_HERE + elsewhere):
            server.put(PODS, _pod(number))
        kubeconfig = str(server.kubeconfig(folder))
        named = ("--docker", docker.url, "--kubernetes", kubeconfig, "--kubernetes-node", "node-3")
        target = stack.enter_context(sink())
        process = stack.enter_context(
            probe(target, *named, *options, "--include", f"cidr={SUBNET}")
        )
        if "--no-kubernetes" not in options:
            wait_until(lambda: _is_read(server, bool(elsewhere)), "the names")
        time.sleep(_SETTLED_S)
        found = [process.memory_kib(name) for name in ("VmRSS", "VmHWM")]
    progress(f"names: {elsewhere} Pods elsewhere, {found[0]} KiB")
    return [f"{kib * 1024 / 1e6:.1f} MB" for kib in found]


def _is_read(server: KubernetesServer, has_others: bool) -> bool:
    return len(server.queries(PODS, watch=True)) > has_others


def _pod(number: int) -> Object:
    found = copy.deepcopy(recorded("web"))
    found["metadata"] |= {"uid": f"{number:08x}-b29f-41e7-9350-020968147796"}
    found["metadata"]["name"] = f"web-7d4b9c6f5d-{number:05}"
    if number >= _HERE:
        found["spec"]["nodeName"] = f"node-x{number % 100}"
    found["spec"]["padding"] = _PADDING
    found["status"]["podIPs"] = [{"ip": f"10.244.{number >> 8 & 255}.{number & 255}"}]
    for place, one in enumerate(found["status"]["containerStatuses"]):
        one["containerID"] = f"containerd://{number:032x}{place:032x}"
    return found
