"""Makes owners from /proc, for collectors without a kernel half that records processes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from probe.flow.owner import Owner, Process, share
from probe.owners.container import container_id, owner_of_cgroup
from probe.owners.users import Names, Namespaces, Users, read_namespaces

#: Hierarchies in which runtimes put containers, in the order of kernel/host.container_hierarchy.
_HIERARCHIES = ("memory", "pids", "devices", "")
#: Mount points of the cgroup file systems: v2, hybrid, v1.
_CGROUP_MOUNTS = tuple(
    f"/sys/fs/cgroup{below}" for below in ("", "/unified", "/memory", "/pids", "/devices")
)
_DELETED = " (deleted)"
_STATUS = ("Uid", "Gid", "VmSize", "VmPeak")


@dataclass(frozen=True, slots=True)
class Identity:
    """What identifies a process: its number is used again, and exec changes its name."""

    pid: int
    start_ticks: int
    name: str
    parent_pid: int


def read_identity(pid: int, proc: str = "/proc") -> Identity | None:
    """Returns the identity from /proc/PID/stat, which anyone may read; None if it is gone."""
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
    """Returns the owner of the process as it is now; unreadable paths are ''."""
    path = f"{proc}/{identity.pid}"
    cgroup = read_cgroup(path)
    where = owner_of_cgroup(cgroup, node, count_delegated(cgroup))
    process = _read_process(path, identity, users, where.container.id)
    if process.path:
        process = dataclasses.replace(process, path_source="walked")
    return dataclasses.replace(
        where,
        process=dataclasses.replace(process, command_line=command_line(identity.pid)),
        parent=_read_parent(identity, users, where.container.id, proc),
    )


def _read_parent(identity: Identity, users: Users, container_id: str, proc: str) -> Process:
    """Returns the parent; only its number is known if it is gone."""
    parent = read_identity(identity.parent_pid, proc) if identity.parent_pid else None
    if parent is None:
        return Process(identity.parent_pid)
    return share(_read_process(f"{proc}/{parent.pid}", parent, users, container_id))


def _read_process(path: str, identity: Identity, users: Users, container_id: str) -> Process:
    """Returns the process of the folder ``path`` of /proc, without its command line."""
    status = _read_status(path)
    names = _find_names(users, path, identity.pid, status, container_id)
    return Process(
        identity.pid,
        identity.name,
        read_path(path),
        uid=status.get("Uid"),
        gid=status.get("Gid"),
        user_name=names.user,
        group_name=names.group,
        has_own_users=names.are_own,
        vm_size=status.get("VmSize"),
        vm_peak=status.get("VmPeak"),
    )


def _find_names(
    users: Users, path: str, pid: int, status: dict[str, int], container_id: str
) -> Names:
    """Returns the names of a process, none if the probe may not read its user."""
    if "Uid" not in status:
        return Names()
    namespaces = read_namespaces(pid, path.rpartition("/")[0]) or Namespaces()
    return users.find(pid, status["Uid"], status["Gid"], namespaces, container_id)


def read_path(process: str) -> str:
    """Returns the path of the executable of /proc/PID, '' if it is gone or unreadable."""
    try:
        return os.readlink(f"{process}/exe").removesuffix(_DELETED)
    except OSError:
        return ""


def _read_status(process: str) -> dict[str, int]:
    """Returns real user and group, as the kernel half does, and virtual memory in KiB."""
    try:
        lines = Path(f"{process}/status").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    fields = (line.partition(":") for line in lines)
    return {name: int(rest.split()[0]) for name, _, rest in fields if name in _STATUS}


def read_cgroup(process: str) -> str:
    """Returns the cgroup path of /proc/PID, '' if it is gone."""
    try:
        text = Path(f"{process}/cgroup").read_text(errors="replace")
    except OSError:
        return ""
    return choose_cgroup(text)


def count_delegated(cgroup: str) -> int:
    """Returns how many components of a cgroup path are delegated.

    That is the number of components from the innermost up to the outermost cgroup that does not
    belong to root. It is 0 if all belong to root, or if the cgroup is gone.
    """
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
    """Returns the path of a container in /proc/PID/cgroup, else that of the first hierarchy."""
    by_controller: dict[str, str] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(",") if number != "0" else ("",):
            by_controller[controller] = path
    paths = [by_controller[name] for name in _HIERARCHIES if name in by_controller]
    paths += by_controller.values()
    return next((path for path in paths if container_id(path)), paths[0] if paths else "")
