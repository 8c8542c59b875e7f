"""Processes in /proc -> Owner, for collectors without a kernel half that stamps them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from probe.flow.owner import Owner
from probe.owners.container import container_id, read_place
from probe.owners.users import Names, Namespaces, Users, read_namespaces

#: Where container runtimes put containers, in the order of kernel/host.container_hierarchy.
_HIERARCHIES = ("memory", "pids", "devices", "")
#: Where the file systems of cgroups are mounted: v2, hybrid, v1.
_CGROUP_MOUNTS = tuple(
    f"/sys/fs/cgroup{below}" for below in ("", "/unified", "/memory", "/pids", "/devices")
)
_DELETED = " (deleted)"
_STATUS = ("Uid", "Gid", "VmSize", "VmPeak")


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a process another one: its number is used again, and exec changes its name."""

    pid: int
    start_ticks: int
    name: str
    parent_pid: int


def read_identity(pid: int, proc: str = "/proc") -> Identity | None:
    """From /proc/PID/stat, which anyone may read; None when the process is gone."""
    try:
        text = Path(f"{proc}/{pid}/stat").read_bytes()
    except OSError:
        return None
    front, _, rest = text.rpartition(b")")  # the name may hold anything, parentheses too
    name = front.partition(b"(")[2].decode("utf-8", "replace")
    fields = rest.split()
    return Identity(pid, int(fields[19]), name, int(fields[1]))


def owner_from_proc(
    identity: Identity,
    users: Users,
    command_line: Callable[[int], str],
    node: str = "",
    proc: str = "/proc",
) -> Owner:
    """The process as it is now; paths are '' where we may not read them."""
    process = f"{proc}/{identity.pid}"
    parent = read_identity(identity.parent_pid, proc) if identity.parent_pid else None
    own = _read_status(process)
    of_parent = _read_status(f"{proc}/{identity.parent_pid}") if parent else {}
    path = read_path(process)
    cgroup = read_cgroup(process)
    place = read_place(cgroup, count_delegated(cgroup))
    names = _find_names(users, identity.pid, own, place.container_id, proc)
    of_parents = _find_names(users, identity.parent_pid, of_parent, place.container_id, proc)
    return Owner(
        pid=identity.pid,
        process_name=identity.name,
        process_path=path,
        path_source="walked" if path else "",
        parent_pid=identity.parent_pid,
        parent_name=parent.name if parent else "",
        parent_path=read_path(f"{proc}/{identity.parent_pid}") if parent else "",
        uid=own.get("Uid"),
        gid=own.get("Gid"),
        user_name=names.user,
        group_name=names.group,
        has_own_users=names.are_own,
        parent_uid=of_parent.get("Uid"),
        parent_gid=of_parent.get("Gid"),
        parent_user_name=of_parents.user,
        vm_size=own.get("VmSize"),
        vm_peak=own.get("VmPeak"),
        parent_vm_size=of_parent.get("VmSize"),
        parent_vm_peak=of_parent.get("VmPeak"),
        command_line=command_line(identity.pid),
        cgroup=cgroup,
        container_id=place.container_id,
        is_doubtful=place.is_doubtful,
        is_unconfirmed=place.is_doubtful,
        outer_container_id=place.outer_container_id,
        pod_uid=place.pod_uid,
        unit=place.unit,
        node=node,
    )


def _find_names(
    users: Users, pid: int, status: dict[str, int], container_id: str, proc: str
) -> Names:
    """None for a process whose user we may not read."""
    if "Uid" not in status:
        return Names()
    namespaces = read_namespaces(pid, proc) or Namespaces()
    return users.find(pid, status["Uid"], status["Gid"], namespaces, container_id)


def read_path(process: str) -> str:
    """Of the executable of /proc/PID; '' when it is gone, or may not be looked at."""
    try:
        return os.readlink(f"{process}/exe").removesuffix(_DELETED)
    except OSError:
        return ""


def _read_status(process: str) -> dict[str, int]:
    """Real user and group, as the kernel half has them, and virtual memory in KiB."""
    try:
        lines = Path(f"{process}/status").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    fields = (line.partition(":") for line in lines)
    return {name: int(rest.split()[0]) for name, _, rest in fields if name in _STATUS}


def read_cgroup(process: str) -> str:
    """Of /proc/PID; '' when it is gone."""
    try:
        text = Path(f"{process}/cgroup").read_text(errors="replace")
    except OSError:
        return ""
    return choose_cgroup(text)


def count_delegated(cgroup: str) -> int:
    """How many components of a cgroup's path, counted from the innermost, it takes to reach the
    outermost one that is not root's; 0: all are, or it is gone."""
    parts = cgroup.strip("/").split("/")
    for mount in _CGROUP_MOUNTS:
        path = mount
        for count, part in enumerate(parts):
            path = f"{path}/{part}"
            try:
                if os.stat(path).st_uid:
                    return len(parts) - count
            except OSError:
                break
        else:
            return 0
    return 0


def choose_cgroup(text: str) -> str:
    """The path of /proc/PID/cgroup that names a container, else that of the first hierarchy."""
    by_controller: dict[str, str] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(",") if number != "0" else ("",):
            by_controller[controller] = path
    paths = [by_controller[name] for name in _HIERARCHIES if name in by_controller]
    paths += by_controller.values()
    return next((path for path in paths if container_id(path)), paths[0] if paths else "")
