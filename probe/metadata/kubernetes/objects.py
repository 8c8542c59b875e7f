"""Pods and Services of the Kubernetes API -> the little of them that flows are told with. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import ip_address
from sys import intern
from typing import Any

from probe.flow.owner import ContainerNames

Object = Mapping[str, Any]

_STATUSES = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
_OVER = ("Succeeded", "Failed")
#: Label with the hash that ends the name of a ReplicaSet -> what has made that ReplicaSet.
_HASHES = {"pod-template-hash": "Deployment", "rollouts-pod-template-hash": "Rollout"}
#: A CronJob names a Job after itself and the time that it was due, in minutes; before 1.21 seconds.
_SCHEDULED = re.compile(r"(?P<name>.+)-(?:(?P<minutes>\d{8})|(?P<seconds>\d{10}))")
_DAY_S = 86400
_ADDRESS_OCTETS = 16


@dataclass(frozen=True, slots=True)
class Named:
    """What has addresses of its own (16 octets, IPv4 first) from ``start_ns`` on (Unix time).

    ``containers``: ids of those of a Pod, with their names; ``names``: of the whole.
    """

    uid: str
    names: ContainerNames
    containers: tuple[tuple[str, ContainerNames], ...] = ()
    addresses: tuple[bytes, ...] = ()
    start_ns: int = 0


def read_pod(found: Object, labels: Sequence[str] = (), has_containers: bool = True) -> Named:
    """``labels``: keys of those to keep; ``has_containers``: they are wanted.

    A Pod in the host's network, or that is over, has no address. Raises KeyError, TypeError,
    ValueError or AttributeError for what is no Pod.
    """
    about, spec, status = found["metadata"], found["spec"], found.get("status") or {}
    own = about.get("labels") or {}
    names = ContainerNames(
        pod=str(about["name"]),
        namespace=intern(str(about["namespace"])),
        pod_uid=static_uid(about),
        workload=intern(read_workload(about)),
        labels=tuple((key, str(own[key])) for key in labels if key in own),
        node=intern(str(spec.get("nodeName", ""))),
    )
    is_reachable = not spec.get("hostNetwork") and status.get("phase") not in _OVER
    return Named(
        str(about["uid"]),
        names,
        tuple(_read_containers(status, names)) if has_containers else (),
        tuple(_read_addresses(status)) if is_reachable else (),
        _read_time_ns(status.get("startTime") or about["creationTimestamp"]),
    )


def read_service(found: Object) -> Named:
    """With its cluster addresses; those of load balancers may belong to several."""
    about, spec = found["metadata"], found["spec"]
    name = str(about["name"])
    addresses = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return Named(
        str(about["uid"]),
        ContainerNames(namespace=str(about["namespace"]), workload=f"Service/{name}"),
        addresses=tuple(_pack(one) for one in addresses if one and one != "None"),
        start_ns=_read_time_ns(about["creationTimestamp"]),
    )


def static_uid(about: Object) -> str:
    """The UID that the cgroup has: of a Pod of a manifest file that is the kubelet's own digest."""
    annotations = about.get("annotations") or {}
    return str(annotations.get("kubernetes.io/config.mirror") or about["uid"])


def read_workload(about: Object) -> str:
    """'Deployment/web': who made the Pod, and not what it made to that end. '' for a bare Pod, and
    for one that the node itself made of a file."""
    owner = next((one for one in about.get("ownerReferences") or () if one.get("controller")), None)
    if owner is None or owner["kind"] == "Node":
        return ""
    kind, name = str(owner["kind"]), str(owner["name"])
    if kind == "ReplicaSet":
        kind, name = _above_replica_set(name, about.get("labels") or {})
    elif kind == "Job":
        kind, name = _above_job(name, about["creationTimestamp"])
    return f"{kind}/{name}"


def _above_replica_set(name: str, labels: Object) -> tuple[str, str]:
    for label, kind in _HASHES.items():
        suffix = f"-{labels.get(label, '')}"
        if label in labels and name.endswith(suffix):
            return kind, name.removesuffix(suffix)
    return "ReplicaSet", name


def _above_job(name: str, created: str) -> tuple[str, str]:
    """A number that is no time at which this Pod could have been due is a part of the name."""
    match = _SCHEDULED.fullmatch(name)
    if match:
        due_s = int(match["seconds"] or 60 * int(match["minutes"]))
        age_s = _read_time_ns(created) // 10**9 - due_s
        if -60 <= age_s < 366 * _DAY_S:
            return "CronJob", match["name"]
    return "Job", name


def _read_containers(status: Object, pod: ContainerNames) -> Iterator[tuple[str, ContainerNames]]:
    """Also the one before a restart, whose flows may still be told."""
    for kind in _STATUSES:
        for one in status.get(kind) or ():
            names = replace(pod, name=str(one["name"]), image=str(one.get("image", "")))
            for state in (one, (one.get("lastState") or {}).get("terminated") or {}):
                # 'containerd://4f3c...'; '' before it is made
                container_id = str(state.get("containerID") or "").rpartition("//")[2]
                if container_id:
                    yield container_id, names


def _read_addresses(status: Object) -> Iterator[bytes]:
    found = [one.get("ip") for one in status.get("podIPs") or ()] or [status.get("podIP")]
    return (_pack(address) for address in found if address)


def _pack(address: str) -> bytes:
    """As records have addresses."""
    return ip_address(address).packed.ljust(_ADDRESS_OCTETS, b"\0")


def _read_time_ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 10**9
