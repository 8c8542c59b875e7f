"""Takes from Pods, Services and nodes of the Kubernetes API what flows need. Does no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import ip_address
from sys import intern
from typing import Any

from probe.flow.owner import ContainerNames, Node, Pod

Object = Mapping[str, Any]

_STATUSES = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
_SPECS = ("initContainers", "containers", "ephemeralContainers")
_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
_NODE_ADDRESSES = ("InternalIP", "ExternalIP")
_ZONES = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone")
_OVER = ("Succeeded", "Failed")
#: Label whose hash ends the name of a ReplicaSet -> kind of object that made the ReplicaSet.
_HASHES = {"pod-template-hash": "Deployment", "rollouts-pod-template-hash": "Rollout"}
#: A CronJob adds to a Job's name the time when it was due: in minutes, before 1.21 in seconds.
_SCHEDULED = re.compile(r"(?P<name>.+)-(?:(?P<minutes>\d{8})|(?P<seconds>\d{10}))")
_DAY_S = 86400
_ADDRESS_OCTETS = 16


@dataclass(frozen=True, slots=True)
class Named:
    """An object with addresses of its own (16 octets, IPv4 first) since ``start_ns`` (Unix time).

    ``names`` are those of the object itself. ``containers`` are the ids of a Pod's containers, with
    their names. ``cgroup_uid`` is the UID in its cgroups. ``started_ns`` is the time at which its
    latest container started, 0 if none did.
    """

    uid: str
    names: ContainerNames
    containers: tuple[tuple[str, ContainerNames], ...] = ()
    addresses: tuple[bytes, ...] = ()
    start_ns: int = 0
    cgroup_uid: str = ""
    started_ns: int = 0


def read_pod(
    found: Object, labels: Sequence[str] = (), has_containers: bool = True, cluster: str = ""
) -> Named:
    """Returns the names and addresses of a Pod.

    ``labels`` are the keys to keep, or prefixes of keys that end in ``*``. Containers are read if
    ``has_containers``. ``cluster`` is the name of the cluster.

    A Pod in the host's network, or one that is over, has no address. Raises KeyError, TypeError,
    ValueError or AttributeError for an object that is no Pod.
    """
    about, spec, status = found["metadata"], found["spec"], found.get("status") or {}
    own = about.get("labels") or {}
    names = ContainerNames(
        pod=Pod(
            str(about["name"]),
            intern(str(about["namespace"])),
            str(about["uid"]),
            intern(read_workload(about)),
            labels=tuple(_choose_labels(own, labels)),
            cluster=cluster,
        ),
        node=Node(intern(str(spec.get("nodeName", "")))),
    )
    is_reachable = not spec.get("hostNetwork") and status.get("phase") not in _OVER
    return Named(
        str(about["uid"]),
        names,
        tuple(_read_containers(spec, status, names)) if has_containers else (),
        tuple(_read_addresses(status)) if is_reachable else (),
        _read_time_ns(status.get("startTime") or about["creationTimestamp"]),
        static_uid(about),
        max(_read_starts(status), default=0),
    )


def _choose_labels(own: Object, labels: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields each label once, in the order of ``labels``; those of a prefix by their keys."""
    told: set[str] = set()
    for wanted in labels:
        begin = wanted.removesuffix("*")
        keys = sorted(key for key in own if key.startswith(begin)) if begin != wanted else [wanted]
        for key in keys:
            if key in own and key not in told:
                told.add(key)
                yield key, str(own[key])


def read_node(found: Object, cluster: str = "") -> Named:
    """Returns a node, with the addresses of its own processes and of Pods in its network."""
    about, status = found["metadata"], found.get("status") or {}
    name = intern(str(about["name"]))
    addresses = (str(one["address"]) for one in status.get("addresses") or ()
                 if one.get("type") in _NODE_ADDRESSES)  # fmt: skip
    names = ContainerNames(
        pod=Pod(workload=f"Node/{name}", cluster=cluster),
        node=Node(name, intern(_read_zone(about))),
    )
    return Named(
        str(about["uid"]),
        names,
        addresses=tuple(_pack(one) for one in addresses),
        start_ns=_read_time_ns(about["creationTimestamp"]),
    )


def _read_zone(about: Object) -> str:
    own = about.get("labels") or {}
    return next((str(own[key]) for key in _ZONES if key in own), "")


def read_service(found: Object, cluster: str = "") -> Named:
    """Returns a Service, with its cluster addresses.

    Addresses of load balancers are left out, because several Services may share one.
    """
    about, spec = found["metadata"], found["spec"]
    name = str(about["name"])
    addresses = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return Named(
        str(about["uid"]),
        ContainerNames(
            ports=tuple(_read_ports(spec)),
            pod=Pod(namespace=str(about["namespace"]), workload=f"Service/{name}", cluster=cluster),
        ),
        addresses=tuple(_pack(one) for one in addresses if one and one != "None"),
        start_ns=_read_time_ns(about["creationTimestamp"]),
    )


def _read_ports(spec: Object) -> Iterator[tuple[int, int, str]]:
    for one in spec.get("ports") or ():
        protocol = _PROTOCOLS.get(str(one.get("protocol", "TCP")), 0)
        yield protocol, int(one["port"]), str(one.get("name", ""))


def service_port(names: ContainerNames, protocol: int, port: int) -> str:
    """Returns 'shop/web:http', as Antrea writes it; a port without a name gives 'shop/web'."""
    service = f"{names.pod.namespace}/{names.pod.workload.partition('/')[2]}"
    name = next((one[2] for one in names.ports if one[:2] == (protocol, port)), "")
    return f"{service}:{name}" if name else service


def static_uid(about: Object) -> str:
    """Returns the UID in the Pod's cgroups.

    For a Pod from a manifest file that is the kubelet's own digest.
    """
    annotations = about.get("annotations") or {}
    return str(annotations.get("kubernetes.io/config.mirror") or about["uid"])


def read_workload(about: Object) -> str:
    """Returns what made the Pod at first, as 'Deployment/web' instead of its ReplicaSet.

    Returns '' for a Pod that nothing made, and for one that the node made from a file.
    """
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
    """Returns the CronJob of a Job, or the Job itself.

    A number counts as part of the name if this Pod cannot have been due at that time.
    """
    match = _SCHEDULED.fullmatch(name)
    if match:
        due_s = int(match["seconds"] or 60 * int(match["minutes"]))
        age_s = _read_time_ns(created) // 10**9 - due_s
        if -60 <= age_s < 366 * _DAY_S:
            return "CronJob", match["name"]
    return "Job", name


def _read_starts(status: Object) -> Iterator[int]:
    for kind in _STATUSES:
        for one in status.get(kind) or ():
            if started := ((one.get("state") or {}).get("running") or {}).get("startedAt"):
                yield _read_time_ns(started)


def _read_containers(
    spec: Object, status: Object, pod: ContainerNames
) -> Iterator[tuple[str, ContainerNames]]:
    """Yields container ids and names, also of a container before its restart.

    Flows of that one may still be exported. The image is the one in the specification, because a
    runtime may report any name of it.
    """
    asked = {str(one["name"]): str(one.get("image", ""))
             for kind in _SPECS for one in spec.get(kind) or ()}  # fmt: skip
    for kind in _STATUSES:
        for one in status.get(kind) or ():
            name = str(one["name"])
            names = replace(pod, name=name, image=asked.get(name) or str(one.get("image", "")))
            for state in (one, (one.get("lastState") or {}).get("terminated") or {}):
                # 'containerd://4f3c...', or '' before the container exists
                container_id = str(state.get("containerID") or "").rpartition("//")[2]
                if container_id:
                    yield container_id, names


def _read_addresses(status: Object) -> Iterator[bytes]:
    found = [one.get("ip") for one in status.get("podIPs") or ()] or [status.get("podIP")]
    return (_pack(address) for address in found if address)


def _pack(address: str) -> bytes:
    """Returns an address in the form that records have."""
    return ip_address(address).packed.ljust(_ADDRESS_OCTETS, b"\0")


def _read_time_ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 10**9
