"""Tests that the role in deploy/kubernetes allows what the probe asks of the API, and no more."""

from __future__ import annotations

import importlib
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import models

from probe.commands.cli import build_parser
from probe.config import build
from probe.kernel import host
from probe.owners.kubernetes import KubernetesNames
from probe.owners.kubernetes.api import KubernetesApi
from tests.support.kubernetes_api import NODES, PODS, SERVICES, kubernetes_server, recorded

MANIFEST = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "sockflow.yaml"


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    yaml: Any = importlib.import_module("yaml")
    found = list(yaml.safe_load_all(MANIFEST.read_text()))
    return {one["kind"]: one for one in found}


@pytest.fixture
def pod(objects: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = objects["DaemonSet"]["spec"]["template"]["spec"]
    return spec


def test_every_field_is_one_of_the_api(objects: dict[str, Any]) -> None:
    assert set(objects) == {
        "Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "DaemonSet"
    }  # fmt: skip
    for kind, found in objects.items():
        model: Any = getattr(models, f"V1{kind}")
        model.model_validate(found)
        with pytest.raises(ValueError, match="extra"):
            model.model_validate({**found, "hostPid": True})


def test_the_role_is_what_is_asked_for(objects: dict[str, Any], tmp_path: Path) -> None:
    allowed = {
        (group, resource, verb)
        for rule in objects["ClusterRole"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    with kubernetes_server() as server:
        server.put(PODS, recorded("web"))
        server.put(SERVICES, recorded("service"))
        open_api = partial(KubernetesApi, str(server.kubeconfig(tmp_path)), 5.0)
        names = KubernetesNames(open_api, "node-3", remote=True)
        names.open()
        deadline = time.monotonic() + 10
        while len(server.queries(PODS, True)) < 2 or not all(
            server.queries(path, True) for path in (SERVICES, NODES)
        ):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        names.close()
        asked = {
            ("", path.removeprefix("/api/v1/"), "watch" if "watch" in query else "list")
            for path, query in server.asked
        }
    assert asked == allowed


def test_the_role_is_bound_to_the_account(objects: dict[str, Any], pod: dict[str, Any]) -> None:
    binding, account = objects["ClusterRoleBinding"], objects["ServiceAccount"]["metadata"]
    assert binding["roleRef"]["name"] == objects["ClusterRole"]["metadata"]["name"]
    (subject,) = binding["subjects"]
    assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])
    assert pod["serviceAccountName"] == account["name"]
    assert account["namespace"] == objects["DaemonSet"]["metadata"]["namespace"]


def test_no_more_capabilities_than_are_needed(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    security = container["securityContext"]
    needed = {name.removeprefix("CAP_") for name in host._CAPABILITIES.values()}
    assert set(security["capabilities"]["add"]) == {*needed, "SYS_PTRACE"}
    assert security["capabilities"]["drop"] == ["ALL"]
    assert "privileged" not in security
    assert security["allowPrivilegeEscalation"] is False
    assert pod["hostPID"]
    assert pod["hostNetwork"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert all(mount["readOnly"] for mount in mounts.values())
    assert {mount["name"] for mount in mounts.values()} == {one["name"] for one in pod["volumes"]}
    assert "/sys/fs/cgroup" in mounts


def test_its_arguments_are_ours(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    options = vars(build_parser().parse_args(container["args"]))
    assert options.pop("command").name == "run"
    del options["version"]
    config = build(options)
    assert (config.kubernetes, config.docker) == ("auto", False)
    assert config.kubernetes_labels == ("app.kubernetes.io/name",)
    assert {one["name"] for one in container["env"]} == {"NODE_NAME"}
