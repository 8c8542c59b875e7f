"""Makes owners from the kernel half's owner rows: text, user names and container ids."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probe.flow.owner import Owner, Process, share
from probe.owners.container import Place, owner_of_cgroup, read_place
from probe.owners.procfs import read_cgroup, read_identity, read_path
from probe.owners.users import Namespaces, Users

#: A path of more octets may lack an outer 'docker-<64 digits>.scope': a row holds 255 octets.
_LONG_CGROUP = 176
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
#: The kernel half may stop at deeper paths (PATH_DEPTH of bpf/paths.h counts mounts, too).
_DEEP = 20
_PATH_SOURCES = {0: "", 1: "walked", 2: "exec"}


def _text(field: NDArray[np.uint8]) -> str:
    """Returns NUL-terminated octets as text; a process can have a name that is not UTF-8."""
    return bytes(field).split(b"\0", 1)[0].decode("utf-8", "replace")


def read_command_line(pid: int) -> str:
    """Returns the arguments of a process, joined by spaces; '' if it is gone or unreadable."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return arguments.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")


def owner_from_row(
    row: np.void,
    users: Users,
    command_line: Callable[[int], str],
    node: str = "",
) -> Owner:
    """Returns the owner of a row; a row without a pid is a cgroup without a process.

    ``row`` is a struct owner_row of bpf/flow.h. ``users`` finds names of users and groups, and
    ``node`` is the name of this host. ``command_line`` maps a pid to text; the kernel half does not
    record it, so a process that is gone has none.
    """
    pid = int(row["pid"])
    cgroup = _whole_cgroup(_text(row["cgroup"]), pid)
    where = owner_of_cgroup(cgroup, node, int(row["cgroup_delegated"]))
    if not pid:
        return where
    own = users.find(
        pid, int(row["uid"]), int(row["gid"]), _namespaces(row, ""), where.container.id
    )
    of_parent = users.find(
        int(row["parent_pid"]), int(row["parent_uid"]), int(row["parent_gid"]),
        _namespaces(row, "parent_"), where.container.id,
    )  # fmt: skip
    path, path_source = _find_path(row, pid)
    process = Process(
        pid,
        _text(row["name"]),
        path,
        path_source,
        uid=int(row["uid"]),
        gid=int(row["gid"]),
        user_name=own.user,
        group_name=own.group,
        has_own_users=own.are_own,
        vm_size=int(row["vm_size"]) or None,
        vm_peak=int(row["vm_peak"]) or None,
        command_line=command_line(pid),
    )
    parent = Process(
        int(row["parent_pid"]),
        _text(row["parent_name"]),
        _text(row["parent_path"]),
        uid=int(row["parent_uid"]),
        gid=int(row["parent_gid"]),
        user_name=of_parent.user,
        vm_size=int(row["parent_vm_size"]) or None,
        vm_peak=int(row["parent_vm_peak"]) or None,
    )
    return dataclasses.replace(where, process=process, parent=share(parent))


def _find_path(row: np.void, pid: int) -> tuple[str, str]:
    """Returns the path of the executable, and how it was found.

    A process can overwrite the name under which it was started. So that name counts only if the
    kernel's own path is not available.
    """
    path, source = _text(row["path"]), _PATH_SOURCES.get(int(row["path_source"]), "")
    now = read_identity(pid) if source != "walked" else None
    told = int(row["start_ns"]) // _TICK_NS, _text(row["name"])
    if now and (now.start_ticks, now.name) == told:
        found = read_path(f"/proc/{pid}")
        if len(found) > len(row["path"]) or found.count("/") > _DEEP:  # else of a later exec
            return found, "walked"
    return path, source


def _namespaces(row: np.void, whose: str) -> Namespaces:
    return Namespaces(int(row[f"{whose}mount_ns"]), int(row[f"{whose}user_ns"]))


def _whole_cgroup(cgroup: str, pid: int) -> str:
    """Returns the whole cgroup path, from /proc if the row may have a part of it only.

    A row holds the innermost components of a long path, which may lack an outer container. The rest
    can be read while the process lives.
    """
    if not pid or len(cgroup) < _LONG_CGROUP:
        return cgroup
    whole = read_cgroup(f"/proc/{pid}")
    return whole if whole.endswith(cgroup) else cgroup


def read_process_place(pid: int) -> Place:
    """Returns the place where a process runs, an empty one if it is gone."""
    return read_place(read_cgroup(f"/proc/{pid}"))
