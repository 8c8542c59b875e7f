"""Who is at an end, as members of an object with the names of ntop's agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probe.flow.owner import Owner, Process
from probe.jsonlines.lines import clean
from probe.mapping.tables import Privacy

#: Scheme of the destination -> what the Pod of a container is told under.
POD_KEYS = {"json": "KUBE", "kafka": "KUBE", "zmq": "K8S"}
_POD = ("NAME", "POD", "NS")


def owner_members(owner: Owner, prefix: str, privacy: Privacy, pod_key: str) -> dict[str, Any]:
    """PROCESS, FATHER_PROCESS and CONTAINER of an end; what is unknown or private is left out."""
    members = {
        "PROCESS": _process(owner, privacy) if owner.process.pid else {},
        "FATHER_PROCESS": _father(owner.parent, privacy) if owner.parent.pid else {},
        "CONTAINER": container_members(owner, pod_key),
    }
    return {f"{prefix}_{name}": found for name, found in members.items() if found}


def container_members(owner: Owner, pod_key: str) -> dict[str, Any]:
    """{ID, DOCKER{ID,NAME}} or {ID, KUBE{NAME,POD,NS}}; of a container without names its ID.

    A Pod of another host has no ID, a Service has no NAME and no POD either, and a node no NS. Of a
    Pod that no API tells of there is the UID.
    """
    found: dict[str, Any] = {}
    if owner.container.id:
        found["ID"] = owner.container.id
    if owner.container.is_unconfirmed:
        found["UNCONFIRMED"] = True
    if owner.container.outer_id:
        found["OUTER_ID"] = owner.container.outer_id
    if owner.pod.is_known:
        found[pod_key] = _pod(owner)
        return found
    if owner.container.name:
        found["DOCKER"] = {"ID": owner.container.id, "NAME": clean(owner.container.name)}
    if owner.container.image:
        found["IMAGE"] = clean(owner.container.image)
    return found


def _pod(owner: Owner) -> dict[str, str | dict[str, str]]:
    names: dict[str, str | dict[str, str]] = {
        "NAME": name_in_pod(owner), "POD": owner.pod.name, "NS": owner.pod.namespace,
        "IMAGE": owner.container.image, "UID": owner.pod.uid, "NODE": owner.node.name,
        "ZONE": owner.node.zone, "CLUSTER": owner.pod.cluster, "SERVICE": owner.service,
        "WORKLOAD": owner.pod.workload, **_workload(owner), "LABELS": dict(owner.pod.labels),
    }  # fmt: skip
    return {key: _clean(value) for key, value in names.items() if value or key in _POD}


def name_in_pod(owner: Owner) -> str:
    """Of the container; that of the Pod for the container which holds it: no API tells of that
    one, and the Pod is what it stands for."""
    held = owner.pod.name if owner.container.id else ""
    return owner.container.name or held


def _workload(owner: Owner) -> dict[str, str]:
    kind, _, name = owner.pod.workload.partition("/")
    return {"WORKLOAD_KIND": kind, "WORKLOAD_NAME": name}


def _clean(value: str | dict[str, str]) -> str | dict[str, str]:
    if isinstance(value, str):
        return clean(value)
    return {clean(key): clean(text) for key, text in value.items()}


def _process(owner: Owner, privacy: Privacy) -> dict[str, Any]:
    process = owner.process
    return _known(
        {
            "PID": (process.pid, True),
            "NAME": (process.name, privacy.names),
            "UID": (process.uid, privacy.users),
            "UID_NAME": (process.user_name, privacy.users),
            "GID": (process.gid, privacy.users),
            "GID_NAME": (process.group_name, privacy.users),
            "VM_SIZE": (process.vm_size, True),
            "VM_PEAK": (process.vm_peak, True),
            "PROCESS_PATH": (process.path, privacy.paths),
            # the path is what exec was told, and anything may be written over that
            "PATH_UNCONFIRMED": (True if process.path_source == "exec" else None, privacy.paths),
            "CMDLINE": (process.command_line, privacy.command_lines),
            "UNIT": (owner.unit, True),
        }
    )


def _father(parent: Process, privacy: Privacy) -> dict[str, Any]:
    return _known(
        {
            "PID": (parent.pid, True),
            "NAME": (parent.name, privacy.names),
            "UID": (parent.uid, privacy.users),
            "UID_NAME": (parent.user_name, privacy.users),
            "GID": (parent.gid, privacy.users),
            "VM_SIZE": (parent.vm_size, True),
            "VM_PEAK": (parent.vm_peak, True),
            "PROCESS_PATH": (parent.path, privacy.paths),
        }
    )


def _known(values: Mapping[str, tuple[int | str | None, bool]]) -> dict[str, Any]:
    return {
        name: clean(value) if isinstance(value, str) else value
        for name, (value, may_leave) in values.items()
        if may_leave and value is not None and value != ""
    }
