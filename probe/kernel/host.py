"""Finds out what this host's kernel offers: by looking, never by its version number."""

from __future__ import annotations

import gzip
import logging
import os
from pathlib import Path

from probe.errors import KernelError

log = logging.getLogger(__name__)

_BTF = Path("/sys/kernel/btf/vmlinux")
_CGROUP_ROOT_INODE = 1

#: Bits of include/uapi/linux/capability.h. CAP_SYS_ADMIN (21) includes the last two.
_CAPABILITIES = {12: "CAP_NET_ADMIN", 38: "CAP_PERFMON", 39: "CAP_BPF"}
_SYS_ADMIN = 21

#: Values of enum container_hierarchy in bpf/flow.h, in order of preference.
_V1_CONTROLLERS = {"memory": 1, "pids": 2, "devices": 3}


def check_capabilities() -> None:
    """Raises KernelError if this process may not load eBPF; it names the missing capabilities."""
    status = Path("/proc/self/status").read_text()
    held = int(status.partition("CapEff:")[2].split()[0], 16)
    if held >> _SYS_ADMIN & 1:
        held |= 1 << 38 | 1 << 39
    missing = [name for bit, name in _CAPABILITIES.items() if not held >> bit & 1]
    if missing:
        raise KernelError(
            f"loading eBPF needs privilege: run as root, or give {', '.join(missing)}"
        )


def check_btf() -> None:
    """Raises KernelError if the kernel has no BTF, which CO-RE needs."""
    if not _BTF.exists():
        raise KernelError(
            "this kernel has no BTF (/sys/kernel/btf/vmlinux): use one built with "
            "CONFIG_DEBUG_INFO_BTF, as all Debian kernels since 11 are"
        )


def has_kernel_function(name: str) -> bool:
    """Returns whether BTF has ``name``. BTF has all kernel functions that programs may call."""
    wanted, end = b"\0" + name.encode() + b"\0", b""
    with _BTF.open("rb") as types:
        while piece := types.read(1 << 18):
            if wanted in end + piece:
                return True
            end = piece[-len(wanted) :]
    return False


def cgroup_root() -> str:
    """Returns the mount point of cgroup v2. Raises KernelError if it is not mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, target, kind, *_ = line.split(" ")
        if kind == "cgroup2":
            root = target.encode().decode("unicode_escape")
            if os.stat(root).st_ino != _CGROUP_ROOT_INODE:
                log.warning(
                    "%s is not the root of the cgroup tree: sockets of other containers are not "
                    "metered. Mount the host's /sys/fs/cgroup, or use its cgroup namespace",
                    root,
                )
            return root
    raise KernelError(
        "cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified (or boot with it)"
    )


def container_hierarchy() -> tuple[int, int]:
    """Returns the hierarchy that container runtimes use: (enum container_hierarchy, its id).

    That is the one of a mounted v1 controller, otherwise cgroup v2 as (0, 0).
    """
    try:
        lines = Path("/proc/cgroups").read_text().splitlines()[1:]
    except OSError:
        return 0, 0
    mounted = {name: int(hierarchy) for name, hierarchy, *_ in map(str.split, lines)}
    for name, value in _V1_CONTROLLERS.items():
        if mounted.get(name):
            return value, mounted[name]
    return 0, 0


def has_containers_in_v1() -> bool:
    """Returns whether containers are in a v1 hierarchy. A socket's v2 cgroup then says nothing."""
    return container_hierarchy()[0] != 0


def jiffies_per_second() -> int:
    """Returns CONFIG_HZ, 0 if the kernel's configuration cannot be read."""
    try:
        text = gzip.decompress(Path("/proc/config.gz").read_bytes()).decode()
    except OSError:
        try:
            text = Path(f"/boot/config-{os.uname().release}").read_text()
        except OSError:
            return 0
    for line in text.splitlines():
        if line.startswith("CONFIG_HZ="):
            return int(line.partition("=")[2])
    return 0
