"""Tests flows through Services, with a kube-proxy's DNAT in a network namespace as the node.

The node's own processes and its Pods are the clients. Behind the Service is a Pod of this node,
or one that has no socket here.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.kubernetes_api import (
    PODS,
    SERVICES,
    KubernetesServer,
    kubernetes_server,
    recorded,
)
from tests.support.lab.hosts import Host, inside, run
from tests.support.lab.pods import DB_POD, NGINX, POSTGRES, WEB_POD, Enter, entering, until
from tests.support.meters.actors import Actor, actors, translated_hosts
from tests.support.meters.shell import Record, Shell, Shells, shells

NODE = "skvr"
CLUSTER_IP, POD_IP = "10.96.17.4", "10.77.2.2"
PORT, TARGET = 7467, 7468  # used by no other test, since the probe meters the whole host
RULES = f"""
table ip services {{
  chain to {{ type nat hook prerouting priority -100;
    ip daddr {CLUSTER_IP} meta l4proto {{ tcp, udp }} th dport {PORT} dnat to {POD_IP}:{TARGET}; }}
  chain out {{ type nat hook output priority -100;
    ip daddr {CLUSTER_IP} meta l4proto {{ tcp, udp }} th dport {PORT} dnat to {POD_IP}:{TARGET}; }}
}}
"""
SERVICE = {6: "shop/web:http", 17: "shop/web:media"}

#: A Pod of another host: it has no socket on this one, and sends each datagram back.
STRANGER = f"""
r = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x800))
r.bind(("v{NODE[:-1]}b", 0))
def answer():
    global back
    port = ({TARGET}).to_bytes(2, "big")
    while True:
        one = r.recv(2048)
        if one[23] == 17 and one[36:38] == port:
            break
    ethernet = one[6:12] + one[:6] + one[12:14]
    ip = one[14:26] + one[30:34] + one[26:30]
    back = ethernet + ip + one[36:38] + one[34:36] + one[38:40] + bytes(2) + one[42:]
    r.send(back)
"""


@pytest.fixture
def node() -> Iterator[tuple[Host, Host, Host]]:
    """Yields two Pods and their node."""
    with translated_hosts(NODE[:-1], RULES) as (client, server):
        run("ip", "-n", server.name, "route", "add", "default", "via", "10.77.2.254")
        run("ip", "-n", NODE, "link", "set", "lo", "up")
        run("ip", "-n", NODE, "route", "add", "10.96.0.0/16", "via", POD_IP)
        yield client, server, Host(NODE, 3)


@pytest.fixture
def server(node: tuple[Host, Host, Host]) -> Iterator[KubernetesServer]:
    """Yields a Kubernetes API in the node's namespace, where the probe is."""
    service = copy.deepcopy(recorded("service"))
    service["spec"]["clusterIPs"] = [CLUSTER_IP]
    service["spec"]["ports"] = [
        {"name": name.partition(":")[2], "port": PORT, "protocol": protocol}
        for protocol, name in (("TCP", SERVICE[6]), ("UDP", SERVICE[17]))
    ]
    with inside(NODE), kubernetes_server() as found:
        found.put(PODS, recorded("web"))
        found.put(PODS, recorded("db"))
        found.put(SERVICES, service)
        yield found


@pytest.fixture
def enter() -> Iterator[Enter]:
    with entering() as found:
        yield found


@pytest.fixture
def shell() -> Iterator[Shells]:
    with shells() as found:
        yield found


def start(shell: Shells, server: KubernetesServer, folder: Path, *options: str) -> Shell:
    node = Host(NODE, 3)
    found = shell(
        "--no-docker", "--kubernetes", str(server.kubeconfig(folder)), "--kubernetes-node",
        "node-3", "--kubernetes-remote", "--profile", "everything",
        "--include", "cidr=10.77.0.0/16",
        "-e", f"json://{folder}/flows.jsonl", *options, probe=node, sink=node,
    )  # fmt: skip
    until(lambda: len(server.queries(PODS, watch=True)) == 2 and server.queries(SERVICES, True))
    time.sleep(0.5)
    return found


def talk(client: Actor, server: Actor, protocol: int) -> None:
    kind = "SOCK_STREAM" if protocol == 6 else "SOCK_DGRAM"
    for actor in (client, server):
        actor.do(f"s = socket.socket(socket.AF_INET, socket.{kind}); s.settimeout(120)")
    server.do(f"s.bind(('', {TARGET}))")
    if protocol == 6:
        server.do("s.listen()")
        client.do(f"s.connect(('{CLUSTER_IP}', {PORT}))")
        server.do("c, _ = s.accept(); s.close()")
        for _ in range(3):
            client.do("s.sendall(b'q' * 100)")
            server.do("c.recv(100, socket.MSG_WAITALL); c.sendall(b'a' * 200)")
            client.do("s.recv(200, socket.MSG_WAITALL)")
            time.sleep(1.2)
        client.do("s.close()")
        server.do("c.close()")
        return
    for _ in range(3):
        client.do(f"s.sendto(b'question', ('{CLUSTER_IP}', {PORT}))")
        server.do("d, peer = s.recvfrom(99); s.sendto(b'an answer', peer)")
        client.do("s.recv(99)")
        time.sleep(1.2)


def records_of(found: list[Record], protocol: int) -> tuple[list[Record], list[Record]]:
    """Returns (requests, replies)."""
    ports = {PORT, TARGET}
    mine = [one for one in found if one["protocolIdentifier"] == protocol]
    to = [one for one in mine if one["destinationTransportPort"] in ports]
    back = [one for one in mine if one["sourceTransportPort"] in ports]
    return to, back


def flows_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "flows.jsonl").read_text().splitlines()
    return [one for one in map(json.loads, lines) if one.get("EVENT_TYPE") == "FLOW"
            and {PORT, TARGET} & {one["L4_LOCAL_PORT"], one["L4_REMOTE_PORT"]}]  # fmt: skip


#: Only conntrack finds the two ends of datagrams. The ends of connections are found without it.
WAYS = [(6,), (6, "--no-nat"), (17,)]


@pytest.mark.parametrize("place", ["pod", "host"])
@pytest.mark.parametrize("way", WAYS, ids=["tcp", "tcp-no-nat", "udp"])
def test_a_pod_of_this_node(
    node: tuple[Host, Host, Host], server: KubernetesServer, shell: Shells, tmp_path: Path,
    enter: Enter, way: tuple[Any, ...], place: str,
) -> None:  # fmt: skip
    """Both directions name the Pod and the Service; the client has no Service.

    A client that reaches the Pod directly has no Service either.
    """
    protocol, *options = way
    pods, host = node[:2], node[2]
    with actors(pods[0] if place == "pod" else host, pods[1]) as (client, peer):
        if place == "pod":
            enter(client, WEB_POD, NGINX)
        enter(peer, DB_POD, POSTGRES)
        found = start(shell, server, tmp_path, "--active-timeout", "1", *options)
        talk(client, peer, protocol)
        peer.do("l = socket.create_server(('', 7469))")
        client.do(f"t = socket.create_connection(('{POD_IP}', 7469), 5); t.send(b'x')")
        peer.do("d, _ = l.accept(); d.recv(9)")
        time.sleep(1.2)
    records = found.finish()
    to, back = records_of(records, protocol)
    assert len(to) > 1
    assert len(back) > 1
    client_pod = "web-7d4b9c6f5d-x2x7k" if place == "pod" else ""
    for here, other, those in (("destination", "source", to), ("source", "destination", back)):
        for one in those:
            assert (one[f"{here}PodName"], one[f"{here}ServicePortName"]) == (
                "db-0", SERVICE[protocol],
            )  # fmt: skip
            assert (one[f"{other}PodName"], one[f"{other}ServicePortName"]) == (client_pod, "")
    direct = [one for one in records if 7469 in (one["destinationTransportPort"],
                                                 one["sourceTransportPort"])]  # fmt: skip
    assert direct
    assert {one[f"{side}ServicePortName"] for one in direct
            for side in ("source", "destination")} == {""}  # fmt: skip
    flows = flows_of(tmp_path)
    assert flows
    for flow in flows:
        ends = [flow.get(f"{end}_CONTAINER", {}).get("KUBE", {}) for end in ("LOCAL", "REMOTE")]
        assert {one.get("POD", ""): one.get("SERVICE", "") for one in ends} == {
            client_pod: "", "db-0": SERVICE[protocol],
        }  # fmt: skip


def test_replies_alone(
    node: tuple[Host, Host, Host], server: KubernetesServer, shell: Shells, tmp_path: Path,
) -> None:  # fmt: skip
    """The request is older than the probe. The first record is a reply's, and has the Pod."""
    there = copy.deepcopy(recorded("elsewhere"))
    there["status"] |= {"podIP": POD_IP, "podIPs": [{"ip": POD_IP}]}
    server.put(PODS, there)
    node[1].exec("nft", "add", "table", "ip", "silent")
    node[1].exec("nft", "add", "chain", "ip", "silent", "out",
                 "{ type filter hook output priority 0; }")  # fmt: skip
    node[1].exec("nft", "add", "rule", "ip", "silent", "out", "ip", "protocol", "icmp", "drop")
    with actors(node[0], node[1]) as (client, peer):
        peer.do(STRANGER)
        client.do("s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(120)")
        client.do(f"s.sendto(b'question', ('{CLUSTER_IP}', {PORT}))")
        peer.do("answer()")
        client.do("s.recv(99)")
        found = start(shell, server, tmp_path)
        peer.do("for _ in range(3): r.send(back)")
        client.do("for _ in range(3): s.recv(99)")
        time.sleep(1.2)
    _, back = records_of(found.finish(), 17)
    assert back
    for one in back:
        assert (one["sourcePodName"], one["sourceServicePortName"]) == (
            "api-66f5d8c9b4-m4n2p", SERVICE[17],
        )  # fmt: skip
