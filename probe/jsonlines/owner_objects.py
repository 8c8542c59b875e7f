"""Describes the owner at an end as members of an object, with the names of ntop's agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probe.flow.owner import Owner, Process
from probe.jsonlines.lines import clean
from probe.mapping.tables import Privacy

#: Maps the scheme of a destination to the member that holds the Pod of a container.
POD_KEYS = {"json": "KUBE", "kafka": "KUBE", "zmq": "K8S"}
_POD = ("NAME", "POD", "NS")


def owner_members(owner: Owner, prefix: str, privacy: Privacy, pod_key: str) -> dict[str, Any]:
    """Returns PROCESS, FATHER_PROCESS and CONTAINER of an end, as far as known and not private."""
    members = {
        "PROCESS": _process(owner, privacy) if owner.process.pid else {},
        "FATHER_PROCESS": _father(owner.parent, privacy) if owner.parent.pid else {},
        "CONTAINER": container_members(owner, pod_key),
    }
    return {f"{prefix}_{name}": found for name, found in members.items() if found}


def container_members(owner: Owner, pod_key: str) -> dict[str, Any]:
    """Returns {ID, DOCKER{ID,NAME}} or {ID, KUBE{NAME,POD,NS}}, or only ID without names.

    A Pod of another host has no ID. A Service has neither ID, NAME nor POD, and a node has no NS
    either. A Pod that no API describes has its UID.
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
    """Returns the name of the container, or that of its Pod if the container has none.

    The container that holds the namespaces of a Pod has no name in any API, and stands for the Pod.
    """
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
            # this is the file name given to exec, and anything may be written over it
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
