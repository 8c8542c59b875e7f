"""Tests flows of processes in a kubelet's cgroups, under names of a Kubernetes API."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from probe.enrich.container_owners import ContainerOwners
from probe.owners.kubernetes import KubernetesNames
from probe.owners.kubernetes.api import KubernetesApi
from probe.owners.users import UserNames
from probe.sources.netlink import NetlinkSource
from tests.support.kubernetes_api import (
    PODS,
    SERVICES,
    KubernetesServer,
    kubernetes_server,
    recorded,
)
from tests.support.lab.hosts import Host, run
from tests.support.lab.pods import (
    DB_POD,
    NGINX,
    OUTER,
    POSTGRES,
    SANDBOX,
    WEB_POD,
    Enter,
    entering,
    until,
)
from tests.support.meters.actors import Actor, actors
from tests.support.meters.netlink import Meter
from tests.support.meters.shell import ROOT, Command, Record, Shells, shells
from tests.support.talk import ENDS, KUBE, TCP, WHO, pieces

PORT = 7391  # used by no other test, since the probe meters the whole host
SHORT_LIVED, API_LAG_S = 12, 3.0
OPTIONS = ("--no-docker", "--kubernetes-node", "node-3", "--kubernetes-labels", "app")


@pytest.fixture
def server() -> Iterator[KubernetesServer]:
    with kubernetes_server() as found:
        yield found


@pytest.fixture
def shell() -> Iterator[Shells]:
    with shells() as found:
        yield found


@pytest.fixture
def enter() -> Iterator[Enter]:
    with entering() as found:
        yield found


def exchange(client: Actor, server: Actor, address: str, port: int = PORT) -> None:
    server.do(f"l = socket.create_server(({address!r}, {port}))")
    client.do(f"s = socket.create_connection(({address!r}, {port}), 5)")
    server.do("c, _ = l.accept()")
    client.do("s.sendall(b'x' * 1000)")
    server.do("c.recv(1000, socket.MSG_WAITALL); c.sendall(b'y' * 500)")
    client.do("s.recv(500, socket.MSG_WAITALL)")


def of_port(records: list[Record], port: int = PORT) -> list[Record]:
    ends = ("sourceTransportPort", "destinationTransportPort")
    return [record for record in records if port in [record.get(end) for end in ends]]


def to_port(records: list[Record]) -> list[Record]:
    return [record for record in of_port(records) if record["destinationTransportPort"] == PORT]


def told(record: Record, side: str) -> dict[str, Any]:
    """Returns all elements of the container at one side."""
    prefix = {"source": "SRC", "destination": "DST"}[side]
    names = ("ContainerName", "ContainerImage", "PodName", "PodNamespace", "PodLabels", "Workload",
             "NodeName")  # fmt: skip
    return {
        "id": record[f"{prefix}_PROC_CONTAINER_ID"],
        "outer": record[f"{side}OuterContainerId"],
        **{name: record[f"{side}{name}"] for name in names},
    }


WEB = {
    "id": NGINX, "outer": OUTER,
    "ContainerName": "nginx", "ContainerImage": "docker.io/library/nginx:1.27",
    "PodName": "web-7d4b9c6f5d-x2x7k", "PodNamespace": "shop", "PodLabels": '{"app":"web"}',
    "Workload": "Deployment/web", "NodeName": "node-3",
}  # fmt: skip
DB = {
    "id": POSTGRES, "outer": OUTER, "ContainerName": "postgres", "ContainerImage": "postgres:16",
    "PodName": "db-0", "PodNamespace": "data", "PodLabels": '{"app":"db"}',
    "Workload": "StatefulSet/db", "NodeName": "node-3",
}  # fmt: skip


def test_both_ends_in_pods(
    server: KubernetesServer, shell: Shells, hosts: tuple[Host, Host], tmp_path: Path,
    enter: Enter,
) -> None:  # fmt: skip
    """Outputs are IPFIX, JSON and Antrea's elements.

    One Pod is removed before its last flow leaves.
    """
    server.put(PODS, recorded("web"))
    server.put(PODS, recorded("db"))
    lines = tmp_path / "flows.jsonl"
    kubeconfig = str(server.kubeconfig(tmp_path))
    with actors(*hosts) as (client, peer):
        enter(client, WEB_POD, NGINX)
        enter(peer, DB_POD, POSTGRES)
        found = shell("--kubernetes", kubeconfig, *OPTIONS, "-e", f"json://{lines}")
        until(lambda: server.queries(PODS, watch=True))
        exchange(client, peer, str(hosts[1].four))
        server.remove(PODS, recorded("web"))
        client.do("s.close()")
        peer.do("c.close()")
        found.wait_for(lambda records: len(of_port(records)) == 2)
    records = of_port(found.finish())
    to = to_port(records)
    back = [record for record in records if record["sourceTransportPort"] == PORT]
    assert to
    assert back
    for record in to:
        assert (told(record, "source"), told(record, "destination")) == (WEB, DB)
    for record in back:
        assert (told(record, "source"), told(record, "destination")) == (DB, WEB)
    objects = [json.loads(line) for line in lines.read_text().splitlines()]
    flows = [one for one in objects if one.get("EVENT_TYPE") == "FLOW"
             and PORT in (one["L4_LOCAL_PORT"], one["L4_REMOTE_PORT"])]  # fmt: skip
    assert flows
    for one in flows:
        ends = {one["LOCAL_CONTAINER"]["ID"]: one["LOCAL_CONTAINER"],
                one["REMOTE_CONTAINER"]["ID"]: one["REMOTE_CONTAINER"]}  # fmt: skip
        assert ends[NGINX]["KUBE"] == {
            "NAME": "nginx", "POD": "web-7d4b9c6f5d-x2x7k", "NS": "shop", "UID": WEB_POD,
            "NODE": "node-3", "WORKLOAD": "Deployment/web", "WORKLOAD_KIND": "Deployment",
            "WORKLOAD_NAME": "web", "IMAGE": "docker.io/library/nginx:1.27",
            "LABELS": {"app": "web"},
        }  # fmt: skip
        assert ends[NGINX]["OUTER_ID"] == OUTER
        # all fields of the talk but the address, which needs a default route
        assert not (ENDS | WHO | KUBE | TCP) - {"EXPORTER_IPV4_ADDRESS"} - pieces(one)
        assert ends[POSTGRES]["KUBE"]["WORKLOAD"] == "StatefulSet/db"


def test_the_netlink_collector(
    server: KubernetesServer, hosts: tuple[Host, Host], tmp_path: Path,
    enter: Enter,
) -> None:  # fmt: skip
    server.put(PODS, recorded("web"))
    names = KubernetesNames(partial(KubernetesApi, str(server.kubeconfig(tmp_path)), 5.0), "node-3")
    names.open()
    until(lambda: names.find(NGINX))
    meter = Meter(NetlinkSource(ContainerOwners((names,)), UserNames()))
    try:
        with actors(*hosts) as (client, peer):
            enter(client, WEB_POD, NGINX)
            exchange(client, peer, str(hosts[1].four))
            meter.look(*(host.name for host in hosts))

            def named() -> bool:
                """Sends traffic, since owners are searched for sockets with traffic.

                Returns True if the owner is known.
                """
                client.do("s.sendall(b'x')")
                meter.read()
                return meter.owner(meter.of(hosts[0])[-1]).process.pid == client.pid

            until(named)
            owner = meter.owner(meter.of(hosts[0])[-1])
    finally:
        meter.collector.close()
        names.close()
    assert (owner.pod.namespace, owner.pod.name, owner.container.name) == (
        "shop", "web-7d4b9c6f5d-x2x7k", "nginx"
    )  # fmt: skip
    assert (owner.container.outer_id, owner.pod.workload) == (OUTER, "Deployment/web")


def test_names_that_come_after_the_flow(
    server: KubernetesServer, shell: Shells, hosts: tuple[Host, Host], tmp_path: Path,
    enter: Enter,
) -> None:  # fmt: skip
    """The kubelet reports a container a second after its start, and its records wait for that.

    The container that holds the Pod is in no list. It is known by the Pod, and its records do not
    wait long.
    """
    young = copy.deepcopy(recorded("web"))
    young["status"].pop("containerStatuses")
    server.put(PODS, young)
    with actors(*hosts) as (client, peer):
        enter(client, WEB_POD, NGINX)
        enter(peer, DB_POD, SANDBOX)
        found = shell("--kubernetes", str(server.kubeconfig(tmp_path)), *OPTIONS)
        until(lambda: server.queries(PODS, watch=True))
        server.put(PODS, recorded("db"))
        exchange(client, peer, str(hosts[1].four))
        client.do("s.close()")
        peer.do("c.close()")
        time.sleep(1.2)
        server.put(PODS, recorded("web"))
        found.wait_for(lambda records: len(of_port(records)) == 2)
    records = of_port(found.finish())
    assert len(records) == 2
    (to,) = to_port(records)
    assert told(to, "source") == WEB
    assert told(to, "destination") == {
        **DB, "id": SANDBOX, "ContainerName": "", "ContainerImage": ""
    }  # fmt: skip


@pytest.mark.parametrize("flag", ["--include", "--exclude"])
def test_filters_by_pod_of_short_lived_pods(
    server: KubernetesServer, shell: Shells, hosts: tuple[Host, Host], tmp_path: Path,
    enter: Enter, flag: str,
) -> None:  # fmt: skip
    """Each Pod ends before the API reports it. No record is lost, and no excluded one leaves."""
    names = [f"short-{number}" for number in range(SHORT_LIVED)]
    rules = [word for name in names[::2] for word in (flag, f"pod={name}")]
    found = shell("--kubernetes", str(server.kubeconfig(tmp_path)), *OPTIONS, *rules)
    until(lambda: server.queries(PODS, watch=True))
    # records wait long, because the kubelet's latest reports took long
    server.put(PODS, short_pod(99, "slow", time.time() - 12))
    due: list[tuple[float, dict[str, Any]]] = []
    with actors(hosts[1]) as (peer,):
        peer.do(f"l = socket.create_server(({str(hosts[1].four)!r}, {PORT}), backlog=99)")
        for number, name in enumerate(names):
            with actors(hosts[0]) as (client,):
                pod = short_pod(number, name, time.time())
                enter(client, pod["metadata"]["uid"], f"{number:02x}" * 32)
                client.do(f"s = socket.create_connection(({str(hosts[1].four)!r}, {PORT}), 5)")
                peer.do("c, _ = l.accept()")
                client.do("s.sendall(b'x' * 100); s.close()")
                peer.do("c.recv(100, socket.MSG_WAITALL); c.close()")
            due.append((time.monotonic() + API_LAG_S, pod))
        for when, pod in due:
            time.sleep(max(0.0, when - time.monotonic()))
            server.put(PODS, pod)
        number = len(names[::2]) if flag == "--include" else len(names)
        found.wait_for(lambda records: len(to_port(records)) >= number)
    to = to_port(found.finish())
    told_names = sorted(record["sourcePodName"] for record in to)
    if flag == "--include":
        assert told_names == sorted(names[::2])
    else:  # a server's end is reported without the name of its excluded client
        assert told_names == sorted([*names[1::2], *[""] * len(names[::2])])


def short_pod(number: int, name: str, started_s: float) -> dict[str, Any]:
    """Returns a Pod with one container that runs since ``started_s`` (Unix time)."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started_s))
    pod = copy.deepcopy(recorded("web"))
    pod["metadata"] |= {"uid": f"2c48913c-b29f-41e7-9350-{number:012d}", "name": name}
    status = pod["status"]["containerStatuses"][0]
    status |= {"containerID": "containerd://" + f"{number:02x}" * 32}
    status["state"] = {"running": {"startedAt": when}}
    pod["status"] |= {"startTime": when, "containerStatuses": [status], "podIPs": []}
    return pod


def test_pods_of_other_hosts(
    server: KubernetesServer, shell: Shells, hosts: tuple[Host, Host], tmp_path: Path,
) -> None:  # fmt: skip
    """A Pod and a Service without a local socket are named by their addresses, in both outputs."""
    there = copy.deepcopy(recorded("elsewhere"))
    there["status"] |= {"podIP": "10.77.0.77", "podIPs": [{"ip": "10.77.0.77"}]}
    service = copy.deepcopy(recorded("service"))
    service["spec"]["clusterIPs"] = ["10.77.0.78"]
    server.put(PODS, there)
    server.put(SERVICES, service)
    lines = tmp_path / "flows.jsonl"
    found = shell(
        "--kubernetes", str(server.kubeconfig(tmp_path)), *OPTIONS, "--kubernetes-remote",
        "--active-timeout", "1", "-e", f"json://{lines}",
    )  # fmt: skip
    until(lambda: len(server.queries(PODS, watch=True)) == 2 and server.queries(SERVICES, True))
    with actors(hosts[0]) as (client,):
        client.do("u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
        for last in (77, 78, 79):
            client.do(f"u.sendto(b'hello', ('10.77.0.{last}', {PORT}))")
        found.wait_for(lambda records: len(of_port(records)) == 3)
    records = {r["destinationIPv4Address"]: r for r in of_port(found.finish(), PORT)}
    pod, web, nobody = (records[f"10.77.0.{last}"] for last in (77, 78, 79))
    assert told(pod, "destination") == {
        "id": "", "outer": "", "ContainerName": "", "ContainerImage": "",
        "PodName": "api-66f5d8c9b4-m4n2p",
        "PodNamespace": "shop", "PodLabels": '{"app":"api"}', "Workload": "Deployment/api",
        "NodeName": "node-5",
    }  # fmt: skip
    assert (web["destinationWorkload"], web["destinationPodNamespace"]) == ("Service/web", "shop")
    assert (pod["destinationOwnerOrigin"], nobody["destinationOwnerOrigin"]) == (4, 0)
    assert set(told(nobody, "destination").values()) == {""}
    objects = [json.loads(line) for line in lines.read_text().splitlines()]
    remote = {one["IPV4_REMOTE_ADDR"]: one.get("REMOTE_CONTAINER") for one in objects
              if one.get("L4_REMOTE_PORT") == PORT}  # fmt: skip
    assert remote["10.77.0.77"]["KUBE"]["POD"] == "api-66f5d8c9b4-m4n2p"
    assert remote["10.77.0.78"]["KUBE"]["WORKLOAD"] == "Service/web"
    assert remote["10.77.0.79"] is None


def test_an_api_that_hangs(
    server: KubernetesServer, shell: Shells, hosts: tuple[Host, Host], tmp_path: Path,
    enter: Enter,
) -> None:  # fmt: skip
    """Metering does not wait for the API. Records have the id and the Pod's UID in time."""
    server.is_hanging = True
    with actors(*hosts) as (client, peer):
        enter(client, WEB_POD, NGINX)
        found = shell("--kubernetes", str(server.kubeconfig(tmp_path)), *OPTIONS)
        exchange(client, peer, str(hosts[1].four))
        client.do("s.close()")
        peer.do("c.close()")
        began = time.monotonic()
        found.wait_for(lambda records: len(of_port(records)) == 2)
        records = of_port(found.finish())
        assert time.monotonic() - began < 60
    (to,) = to_port(records)
    assert (to["SRC_PROC_CONTAINER_ID"], to["sourcePodName"]) == (NGINX, "")


def test_the_live_view(
    server: KubernetesServer, hosts: tuple[Host, Host], tmp_path: Path,
    enter: Enter,
) -> None:  # fmt: skip
    server.put(PODS, recorded("web"))
    server.put(PODS, recorded("db"))
    view = Command(
        "run", *OPTIONS, "--kubernetes", str(server.kubeconfig(tmp_path)),
        "--include", "cidr=10.77.0.0/24",
    )  # fmt: skip
    try:
        view.wait_for(2)
        with actors(*hosts) as (client, peer):
            enter(client, WEB_POD, NGINX)
            enter(peer, DB_POD, POSTGRES)
            until(lambda: server.queries(PODS, watch=True))
            exchange(client, peer, str(hosts[1].four))
            # other processes may have made a cgroup within another container's
            view.wait_for_output("shop/web-7d4b9c6f5d-x2x7k/nginx? > data/db-0/postgres?")
        view.stop()
    finally:
        view.kill()


@pytest.mark.parametrize(
    ("container", "name"),
    [(NGINX, "nginx"), (SANDBOX, "web-7d4b9c6f5d-x2x7k")],
    ids=["container", "sandbox"],
)
def test_who_is_behind_a_veth(
    server: KubernetesServer, tmp_path: Path, enter: Enter,
    container: str, name: str,
) -> None:  # fmt: skip
    """It is often only the process that holds the Pod. No API describes its container."""
    server.put(PODS, recorded("web"))
    space = Host(f"skpod{container[:2]}", 1)
    device = f"skveth{container[:2]}"  # a deleted namespace's veth lives on for a while
    subprocess.run(["ip", "netns", "add", space.name], check=True)
    try:
        run("ip", "link", "add", device, "type", "veth", "peer", "eth0", "netns", space.name)
        with actors(space) as (holder,):
            enter(holder, WEB_POD, container)
            output = run(
                sys.executable, "-m", "probe", "interfaces", "--json", "--no-docker",
                "--kubernetes", str(server.kubeconfig(tmp_path)), "--kubernetes-node", "node-3",
                cwd=ROOT,
            ).stdout  # fmt: skip
    finally:
        subprocess.run(["ip", "netns", "del", space.name], check=True)
    found = {one["ifName"]: one for one in map(json.loads, output.splitlines())}
    kube = found[device]["LOCAL_CONTAINER"]["KUBE"]
    assert kube == {"NAME": name, "POD": "web-7d4b9c6f5d-x2x7k", "NS": "shop"}
