"""Tests that all outputs name the same owner alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from probe.flow.label import container_label, names_label, owner_label
from probe.flow.owner import Container, ContainerNames, Owner, Pod, Process
from probe.jsonlines.owner_objects import container_members
from probe.mapping.tables import ATTRIBUTES
from probe.prometheus.traffic import container_labels
from probe.view.describe import container_text
from probe.view.flows import FlowTable

ID = "0123456789abcdef" * 4
OWNERS = [
    (Owner(), ""),
    (Owner(Process(1, "sshd"), unit="ssh.service"), ""),
    (Owner(container=Container(ID)), ID[:12]),
    (Owner(container=Container(ID, name="web")), "web"),
    (Owner(container=Container(ID, name="a-web-1", compose_service="web")), "a-web-1"),
    (Owner(container=Container(ID, name="web", is_unconfirmed=True)), "web?"),
    (Owner(container=Container(ID, is_unconfirmed=True)), f"{ID[:12]}?"),
    (Owner(container=Container(ID, name="web", is_proxy=True)), "web"),
    (Owner(container=Container(ID, name="nginx"), pod=Pod("web-1", "shop")), "shop/web-1/nginx"),
    (Owner(container=Container(ID), pod=Pod("web-1", "shop")), "shop/web-1"),
    (Owner(pod=Pod("web-1", "shop", "u")), "shop/web-1"),
    (Owner(pod=Pod(namespace="shop", workload="Service/web")), "shop/Service/web"),
    (Owner(pod=Pod(workload="Node/worker-3")), "Node/worker-3"),
]


def from_elements(owner: Owner) -> str:
    """Returns what the built-in collector shows of the Information Elements of ``owner``."""
    record: dict[str, Any] = {
        "protocolIdentifier": 6, "sourceIPv4Address": "10.0.0.1", "sourceTransportPort": 4000,
        "destinationIPv4Address": "10.0.0.2", "destinationTransportPort": 80,
        "destinationOwnerOrigin": 16 * owner.container.is_unconfirmed,
    }  # fmt: skip
    for name, attribute in ATTRIBUTES.items():
        if attribute.key == "destination_owner":
            record[name] = attribute.read(owner)
    table = FlowTable()
    table.observe([record], 1e9)
    (flow,) = table.newest(1)
    return flow.server.container


def from_prometheus(owner: Owner) -> str:
    """Returns the label made of Prometheus' labels, which name no Services and nodes."""
    labels = container_labels(owner.container, owner.pod)
    name = labels.container
    if not labels.pod:
        return name or owner_label(owner)
    return "/".join(filter(None, (labels.namespace, labels.pod, name)))


def from_json(owner: Owner) -> str:
    """Returns the label made of the members of LOCAL_CONTAINER."""
    found = container_members(owner, "KUBE")
    kube, doubted = found.get("KUBE", {}), found.get("UNCONFIRMED", False)
    name = kube.get("NAME", "") or found.get("DOCKER", {}).get("NAME", "")
    pod = Pod(kube.get("POD", ""), kube.get("NS", ""), workload=kube.get("WORKLOAD", ""))
    if pod.name and name == pod.name:  # the container that holds the Pod
        name = ""
    return container_label(Container(found.get("ID", ""), name=name, is_unconfirmed=doubted), pod)


def from_interface(owner: Owner) -> str:
    """Returns the label of ifAlias, the options data and ``interfaces``.

    These show no doubt, so its mark is added here.
    """
    label = names_label(owner.container.id, ContainerNames(owner.container.name, pod=owner.pod))
    return f"{label}?" if label and owner.container.is_unconfirmed else label


OUTPUTS: list[Callable[[Owner], str]] = [
    container_text,
    from_elements,
    from_prometheus,
    from_json,
    from_interface,
]


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: output.__name__)
@pytest.mark.parametrize(("owner", "label"), OWNERS)
def test_all_outputs_agree(output: Callable[[Owner], str], owner: Owner, label: str) -> None:
    assert output(owner) == label


def test_another_container_has_another_label() -> None:
    one = Owner(container=Container(ID, name="web"))
    other = replace(one, container=replace(one.container, name="db"))
    assert all(output(one) != output(other) for output in OUTPUTS)
