"""Who is at an end, as members of an object with the names of ntop's agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probe.flow.owner import Owner
from probe.jsonlines.lines import clean
from probe.mapping.tables import Privacy

#: Scheme of the destination -> what the Pod of a container is told under.
POD_KEYS = {"json": "KUBE", "kafka": "KUBE", "zmq": "K8S"}
_POD = ("NAME", "POD", "NS")


def owner_members(owner: Owner, prefix: str, privacy: Privacy, pod_key: str) -> dict[str, Any]:
    """PROCESS, FATHER_PROCESS and CONTAINER of an end; what is unknown or private is left out."""
    members = {
        "PROCESS": _process(owner, privacy) if owner.pid else {},
        "FATHER_PROCESS": _father(owner, privacy) if owner.parent_pid else {},
        "CONTAINER": container_members(owner, pod_key),
    }
    return {f"{prefix}_{name}": found for name, found in members.items() if found}


def container_members(owner: Owner, pod_key: str) -> dict[str, Any]:
    """{ID, DOCKER{ID,NAME}} or {ID, KUBE{NAME,POD,NS}}; of a container without names its ID.

    A Pod of another host has no ID, a Service has no NAME and no POD either, and a node no NS. Of a
    Pod that no API tells of there is the UID.
    """
    found: dict[str, Any] = {}
    if owner.container_id:
        found["ID"] = owner.container_id
    if owner.is_unconfirmed:
        found["UNCONFIRMED"] = True
    if owner.outer_container_id:
        found["OUTER_ID"] = owner.outer_container_id
    if owner.pod_namespace or owner.pod_uid or owner.workload:
        found[pod_key] = _pod(owner)
        return found
    if owner.container_name:
        found["DOCKER"] = {"ID": owner.container_id, "NAME": clean(owner.container_name)}
    if owner.container_image:
        found["IMAGE"] = clean(owner.container_image)
    return found


def _pod(owner: Owner) -> dict[str, str | dict[str, str]]:
    names: dict[str, str | dict[str, str]] = {
        "NAME": name_in_pod(owner), "POD": owner.pod_name, "NS": owner.pod_namespace,
        "IMAGE": owner.container_image, "UID": owner.pod_uid, "NODE": owner.node,
        "ZONE": owner.zone, "CLUSTER": owner.cluster, "SERVICE": owner.service,
        "WORKLOAD": owner.workload, **_workload(owner), "LABELS": dict(owner.labels),
    }  # fmt: skip
    return {key: _clean(value) for key, value in names.items() if value or key in _POD}


def name_in_pod(owner: Owner) -> str:
    """Of the container; that of the Pod for the container which holds it: no API tells of that
    one, and the Pod is what it stands for."""
    held = owner.pod_name if owner.container_id else ""
    return owner.container_name or held


def _workload(owner: Owner) -> dict[str, str]:
    kind, _, name = owner.workload.partition("/")
    return {"WORKLOAD_KIND": kind, "WORKLOAD_NAME": name}


def _clean(value: str | dict[str, str]) -> str | dict[str, str]:
    if isinstance(value, str):
        return clean(value)
    return {clean(key): clean(text) for key, text in value.items()}


def _process(owner: Owner, privacy: Privacy) -> dict[str, Any]:
    return _known(
        {
            "PID": (owner.pid, True),
            "NAME": (owner.process_name, privacy.names),
            "UID": (owner.uid, privacy.users),
            "UID_NAME": (owner.user_name, privacy.users),
            "GID": (owner.gid, privacy.users),
            "GID_NAME": (owner.group_name, privacy.users),
            "VM_SIZE": (owner.vm_size, True),
            "VM_PEAK": (owner.vm_peak, True),
            "PROCESS_PATH": (owner.process_path, privacy.paths),
            # the path is what exec was told, and anything may be written over that
            "PATH_UNCONFIRMED": (True if owner.path_source == "exec" else None, privacy.paths),
            "CMDLINE": (owner.command_line, privacy.command_lines),
            "UNIT": (owner.unit, True),
        }
    )


def _father(owner: Owner, privacy: Privacy) -> dict[str, Any]:
    return _known(
        {
            "PID": (owner.parent_pid, True),
            "NAME": (owner.parent_name, privacy.names),
            "UID": (owner.parent_uid, privacy.users),
            "UID_NAME": (owner.parent_user_name, privacy.users),
            "GID": (owner.parent_gid, privacy.users),
            "VM_SIZE": (owner.parent_vm_size, True),
            "VM_PEAK": (owner.parent_vm_peak, True),
            "PROCESS_PATH": (owner.parent_path, privacy.paths),
        }
    )


def _known(values: Mapping[str, tuple[int | str | None, bool]]) -> dict[str, Any]:
    return {
        name: clean(value) if isinstance(value, str) else value
        for name, (value, may_leave) in values.items()
        if may_leave and value is not None and value != ""
    }
