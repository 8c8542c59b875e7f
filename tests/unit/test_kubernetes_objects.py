"""Tests what is kept of recorded Pods and Services, and how workloads are named."""

from __future__ import annotations

from typing import Any

import pytest

from probe.flow.label import names_label
from probe.flow.owner import ContainerNames, Node, Pod
from probe.owners.kubernetes.objects import (
    read_node,
    read_pod,
    read_service,
    read_workload,
    service_port,
)
from tests.support.kubernetes_api import recorded

START_NS = 1_767_322_801 * 10**9  # 2026-01-02T03:00:01Z


def hexadecimal(octet: str) -> str:
    return octet * 32


def test_all_containers_of_a_pod() -> None:
    """They include init containers, debugging containers and those before a restart."""
    web = read_pod(recorded("web"), ("team", "app", "absent"))
    pod = ContainerNames(
        pod=Pod(
            "web-7d4b9c6f5d-x2x7k",
            "shop",
            "2c48913c-b29f-41e7-9350-020968147796",
            "Deployment/web",
            labels=(("team", "checkout"), ("app", "web")),
        ),
        node=Node("node-3"),
    )
    assert web.names == pod
    assert {container_id: names.name for container_id, names in web.containers} == {
        hexadecimal("a1"): "nginx", hexadecimal("a0"): "nginx",
        hexadecimal("a2"): "log-shipper", hexadecimal("a3"): "migrate",
        hexadecimal("a4"): "debugger-k8x2p",
    }  # fmt: skip
    nginx = dict(web.containers)[hexadecimal("a1")]
    assert (nginx.pod, nginx.image) == (
        pod.pod, "docker.io/library/nginx:1.27"
    )  # fmt: skip
    assert names_label("", nginx) == "shop/web-7d4b9c6f5d-x2x7k/nginx"
    assert web.start_ns == START_NS
    four, six = web.addresses
    assert four == bytes([10, 244, 3, 7]) + bytes(12)
    assert six.hex() == "fd000010024400030000000000000007"


@pytest.mark.parametrize(
    ("name", "workload", "addresses"),
    [
        ("web", "Deployment/web", 2),
        ("db", "StatefulSet/db", 1),
        ("backup", "CronJob/backup", 0),  # it has ended, so its address may be another Pod's
        ("import", "Job/import-20260102", 1),
        ("exporter", "DaemonSet/node-exporter", 0),  # in the host's network
        ("apiserver", "", 0),
        ("bare", "", 1),
        ("elsewhere", "Deployment/api", 1),
    ],
)
def test_who_made_it_and_where_it_can_be_reached(name: str, workload: str, addresses: int) -> None:
    found = read_pod(recorded(name))
    assert (found.names.pod.workload, len(found.addresses)) == (workload, addresses)


def test_a_static_pod_is_told_by_the_uid_of_the_api_and_known_by_that_of_its_cgroup() -> None:
    found = read_pod(recorded("apiserver"))
    assert found.cgroup_uid == "8d0d37e6d8dc0e2f6ee8a2f5f2b5b6c3"
    assert found.uid == found.names.pod.uid == "719de681-07e4-463c-88a5-575ebd69cc4b"


def made_by(kind: str, name: str, **more: Any) -> dict[str, Any]:
    owners = [
        {"kind": "Other", "name": "x"},
        {"kind": kind, "name": name, "controller": True},
    ]
    return {"ownerReferences": owners, "creationTimestamp": "2026-01-02T03:00:00Z", **more}


@pytest.mark.parametrize(
    ("kind", "name", "labels", "workload"),
    [
        ("ReplicaSet", "a-b-5d4", {"pod-template-hash": "5d4"}, "Deployment/a-b"),
        ("ReplicaSet", "a-5d4", {"rollouts-pod-template-hash": "5d4"}, "Rollout/a"),
        ("ReplicaSet", "a-5d4", {"pod-template-hash": "6e5"}, "ReplicaSet/a-5d4"),
        ("ReplicaSet", "by-hand", {}, "ReplicaSet/by-hand"),
        ("Job", "nightly-29455380", {}, "CronJob/nightly"),  # minutes
        ("Job", "nightly-1767322800", {}, "CronJob/nightly"),  # seconds, before 1.21
        ("Job", "nightly-29455390", {}, "Job/nightly-29455390"),  # it was made before it was due
        ("Job", "import-20250102", {}, "Job/import-20250102"),  # a date
        ("Job", "once", {}, "Job/once"),
        ("ReplicationController", "old", {}, "ReplicationController/old"),
        ("PrometheusAgent", "p", {}, "PrometheusAgent/p"),
    ],
)
def test_the_usual_rules(kind: str, name: str, labels: dict[str, str], workload: str) -> None:
    assert read_workload(made_by(kind, name, labels=labels)) == workload


def test_a_pod_that_was_not_started_yet() -> None:
    found = recorded("web")
    found["status"] = {"phase": "Pending"}
    pod = read_pod(found)
    assert (pod.containers, pod.addresses) == ((), ())
    del found["status"]
    assert read_pod(found).start_ns == START_NS - 10**9, "when it was made"
    found = recorded("web")
    found["status"]["containerStatuses"][0]["containerID"] = ""
    assert len(read_pod(found).containers) == 4


def test_services() -> None:
    web = read_service(recorded("service"))
    assert web.names == ContainerNames(
        ports=((6, 80, "http"),), pod=Pod(namespace="shop", workload="Service/web")
    )
    assert names_label("", web.names) == "shop/Service/web"
    assert [address[:4].hex() for address in web.addresses] == ["0a601104", "fd000010"]
    assert read_service(recorded("headless")).addresses == ()


@pytest.mark.parametrize("found", [{}, {"metadata": 3}, {"metadata": {}, "spec": {}}])
def test_what_is_no_pod(found: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        read_pod(found)


def test_labels_that_begin_alike() -> None:
    """Each label is listed once. Labels of a prefix are sorted by name."""
    own = {"app": "web", "app.kubernetes.io/name": "n", "app.kubernetes.io/part-of": "shop"}
    found = {**recorded("web")}
    found["metadata"] = {**found["metadata"], "labels": own}
    told = read_pod(found, ("app.kubernetes.io/part-of", "app.kubernetes.io/*", "absent/*"))
    assert told.names.pod.labels == (
        ("app.kubernetes.io/part-of", "shop"), ("app.kubernetes.io/name", "n"),
    )  # fmt: skip
    assert dict(read_pod(found, ("*",)).names.pod.labels) == own


def test_the_image_that_was_asked_for() -> None:
    """A runtime may report another name of the same image, or its digest."""
    found = {**recorded("web")}
    status = {**found["status"]}
    status["containerStatuses"] = [
        {**one, "image": "sha256:1234"} for one in status["containerStatuses"]
    ]
    found["status"] = status
    asked = {one["name"]: one["image"] for one in found["spec"]["containers"]}
    told = {names.name: names.image for _, names in read_pod(found).containers}
    assert asked.items() <= told.items()


def test_a_node() -> None:
    found = read_node(recorded("node"), "east")
    assert found.names == ContainerNames(
        pod=Pod(workload="Node/node-5", cluster="east"), node=Node("node-5", "eu-1b")
    )
    assert [address[:4].hex() for address in found.addresses] == ["c0000205", "20010db8"]


@pytest.mark.parametrize(
    ("protocol", "port", "wanted"),
    [(6, 80, "shop/web:http"), (17, 80, "shop/web"), (6, 81, "shop/web")],
)
def test_the_port_of_a_service(protocol: int, port: int, wanted: str) -> None:
    assert service_port(read_service(recorded("service")).names, protocol, port) == wanted
