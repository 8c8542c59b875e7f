"""Reads container ids, Pod UIDs and systemd units from cgroup paths.

One table of patterns covers all runtimes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from probe.flow.owner import Container, Node, Owner, Pod, share

_HEX = r"(?P<id>[0-9a-f]{64})"
_NAME = r"(?P<id>[^/]+?)"
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_BUILD = r"(?P<id>[0-9a-z]{25})"  # an id of BuildKit

#: Each pattern matches one path component, and the innermost component that matches wins. Monitors
#: (conmon) and virtual machines (machine-qemu) are no containers, so no pattern matches them.
_COMPONENTS = tuple(
    re.compile(pattern)
    for pattern in (
        _HEX,  # cgroupfs driver: /docker/ID, /kubepods/.../ID, /libpod_parent/ID
        rf"(?:docker|cri-containerd|crio|libpod|containerd|nerdctl|podman)-{_HEX}(?:\.scope)?",
        rf"libpod-payload-{_HEX}",  # podman run --cgroups=split, as in units
        # kubelet with the systemd driver, containerd without it: POD.slice:cri-containerd:ID
        rf"[^:]+:(?:docker|cri-containerd|crio|containerd):{_HEX}",
        rf"lxc\.payload\.{_NAME}",  # LXC 4 and Incus
        rf"machine-lxc\\x2d(?:\d+\\x2d)?{_NAME}\.scope",  # libvirt: lxc-NUMBER-NAME
        rf"machine-(?!qemu\\x2d){_NAME}\.scope",  # systemd-nspawn
        rf"systemd-nspawn@{_NAME}\.service",
        rf"(?:lxc-\d+-)?{_NAME}\.libvirt-lxc",  # libvirt without systemd
        rf"(?P<id>{_UUID}\.[^/]+?)(?:\.scope)?",  # Nomad: ALLOCATION.TASK
        rf"docker-{_BUILD}\.scope",  # BuildKit within Docker, systemd driver
        r"(?:apptainer|singularity)-(?P<id>\d+)\.scope",  # the number of its first process
        rf"(?:runc|crun|youki)-{_NAME}\.scope",  # started without a higher runtime
        rf"kata_(?!overhead$){_NAME}",  # the virtual machine of a sandbox
    )
)
#: Pairs of patterns: a component that explains the next one, and that of the container.
_BELOW = tuple(
    (re.compile(before), re.compile(pattern))
    for before, pattern in (
        ("lxc", _NAME),  # before LXC 4, and Proxmox: /lxc/NAME
        ("buildkit", _BUILD),
        (r"garden(?:-[^/]+)?", rf"(?!(?:good|bad)$){_NAME}"),  # Cloud Foundry, Concourse
        (r"garden(?:-[^/]+)?/(?:good|bad)", _NAME),
        ("apptainer|singularity", r"(?P<id>\d+)"),
        ("kata_overhead", rf"(?!kubepods){_NAME}"),
        ("mesos", rf"(?P<id>{_UUID})"),
        (r"[0-9a-f]{32}", r"(?P<id>[0-9a-f]{32}-\d+)"),  # ECS on Fargate
        # a namespace of containerd, which `ctr` puts at the top: /default/NAME
        (r"/(?:default|k8s\.io|moby)", _NAME),
    )
)
#: The kubelet's component for a Pod: "pod2c48913c-b29f-..." with the cgroupfs driver, and with
#: systemd's "kubepods-burstable-pod2c48913c_b29f_....slice", where ":cri-containerd:ID" may follow.
#: The UID of a static Pod is 32 hexadecimal digits without dashes.
_POD = re.compile(
    r"(?:(?:[^/]+-)?kubepods(?:-burstable|-besteffort)?-)?pod"
    r"(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})"
    r"(?:\.slice)?(?::[^:]+:[0-9a-f]{64})?"
)
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")  # systemd.unit(5)

#: Kinds of units that have processes. systemd puts a "_" before a name that cgroupfs reserves.
_UNIT = re.compile(r"_?(?P<unit>[^/]+\.(?:service|scope|socket|mount|swap))")
_MANAGER = "init.scope"  # the cgroup of a user's own systemd, inside user@UID.service


@dataclass(frozen=True, slots=True)
class Place:
    """The container, Pod or unit in which a process runs, read from its cgroup; '' for none.

    ``container_id`` is the innermost container, and ``outer_container_id`` the one around it.
    ``unit`` is the systemd unit of a process outside of containers.

    ``is_doubtful`` is True if the cgroup lies inside another container, or inside a cgroup that
    does not belong to root. Others than the runtime may make cgroups of any name there.
    """

    container_id: str = ""
    outer_container_id: str = ""
    pod_uid: str = ""
    unit: str = ""
    is_doubtful: bool = False


def read_place(cgroup: str, delegated: int = 0) -> Place:
    """Returns the place that a cgroup path names.

    ``delegated`` is the number of components from the innermost up to the outermost cgroup that
    does not belong to root. It is 0 if all belong to root.
    """
    *outer, inner = ("", *container_ids(cgroup))
    return Place(
        inner,
        outer[-1] if outer else "",
        pod_uid(cgroup),
        systemd_unit(cgroup),
        len(outer) > 1 or (delegated > 0 and _is_below(cgroup, delegated)),
    )


def owner_of_cgroup(cgroup: str, node: str, delegated: int = 0) -> Owner:
    """Returns the owner of a cgroup without a process; for ``delegated`` see ``read_place``."""
    place = read_place(cgroup, delegated)
    container = Container(
        place.container_id,
        place.outer_container_id,
        is_doubtful=place.is_doubtful,
        is_unconfirmed=place.is_doubtful,
    )
    return Owner(
        container=share(container),
        pod=share(Pod(uid=place.pod_uid)),
        node=share(Node(node)),
        cgroup=cgroup,
        unit=place.unit,
    )


def _is_below(cgroup: str, delegated: int) -> bool:
    """Returns True if the outermost container or Pod lies below the delegated cgroup.

    A container or Pod whose own cgroup is delegated is as its runtime made it.
    """
    parts = cgroup.strip("/").split("/")
    before = "/".join(parts[: len(parts) - delegated + 1])
    names_any = container_ids(cgroup) or pod_uid(cgroup)
    return bool(names_any) and not (container_ids(before) or pod_uid(before))


def container_ids(cgroup: str) -> list[str]:
    """Returns the ids of the containers that a cgroup path names, the outermost first."""
    found: list[str] = []
    for _, container in _containers(cgroup):
        if container not in found[-1:]:
            found.append(container)
    return found


def container_id(cgroup: str) -> str:
    """Returns the id of the innermost container that a cgroup path names, '' for none."""
    return next(reversed(container_ids(cgroup)), "")


def _containers(cgroup: str) -> Iterator[tuple[int, str]]:
    """Yields, for each component that names a container, its position from 1 and the id."""
    parts = cgroup.strip("/").split("/")
    for count, part in enumerate(parts, 1):
        if container := _match_component(part) or _match_below(parts[:count]):
            yield count, container


@lru_cache(4096)
def _match_component(part: str) -> str:
    for pattern in _COMPONENTS:
        if match := pattern.fullmatch(part):
            return _ESCAPED.sub(lambda code: chr(int(code[1], 16)), match["id"])
    return ""


def _match_below(parts: list[str]) -> str:
    """Returns the container id in the last component, if the one or two before it explain it."""
    *before, part = parts
    names = ["/".join(before[-count:]) for count in (1, 2) if len(before) >= count]
    if len(before) == 1:
        names.append(f"/{before[0]}")
    for above, pattern in _BELOW:
        if any(map(above.fullmatch, names)) and (match := pattern.fullmatch(part)):
            return match["id"]
    return ""


def container_cgroup(cgroup: str, container_id: str) -> str:
    """Returns the cgroup path up to the component of a container, '' if it has none."""
    for count, found in _containers(cgroup):
        if found == container_id:
            return "/" + "/".join(cgroup.strip("/").split("/")[:count])
    return ""


def is_container(cgroup: str) -> bool:
    """Returns True if a cgroup path is that of a container, and not of a part of one."""
    found = container_id(cgroup)
    return bool(found) and container_id(cgroup.rpartition("/")[0]) != found


def pod_uid(cgroup: str) -> str:
    """Returns the UID of the innermost Kubernetes Pod that a cgroup path names, '' for none."""
    for part in reversed(cgroup.strip("/").split("/")):
        match = _POD.fullmatch(part)
        if match:
            return match["uid"].replace("_", "-")
    return ""


def systemd_unit(cgroup: str) -> str:
    """Returns the innermost systemd unit that a cgroup path names, as ``systemctl`` shows it.

    Escapes stay. Returns '' if there is none, and for every path inside a container.
    """
    if container_id(cgroup):
        return ""
    units = [match["unit"] for part in cgroup.split("/") if (match := _UNIT.fullmatch(part))]
    if len(units) > 1 and units[-1] == _MANAGER:
        units.pop()
    return units[-1] if units else ""
