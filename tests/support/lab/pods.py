"""Puts processes into cgroups like those that a kubelet makes for containers of Pods."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.meters.actors import Actor
from tests.support.meters.netlink import CGROUP

WEB_POD, DB_POD = "2c48913c-b29f-41e7-9350-020968147796", "3d59a24d-c3a0-42f8-8461-131a79258807"
NGINX, POSTGRES, SANDBOX = "a1" * 32, "b1" * 32, "99" * 32
#: The cgroup of a node that is itself a container, as with kind. Its part of the path is further
#: out than the kernel half reads.
OUTER = "0123456789abcdef" * 4
TOP = f"docker-{OUTER}.scope"

#: Moves a process into a container: (process, UID of a Pod, id of the container).
Enter = Callable[[Actor, str, str], None]


def cgroup_of(pod: str, container: str) -> str:
    """Returns the cgroup of a kubelet in a container, with the systemd driver and containerd."""
    uid = pod.replace("-", "_")
    return (
        f"{TOP}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/"
        f"kubelet-kubepods-burstable-pod{uid}.slice/cri-containerd-{container}.scope"
    )


@contextlib.contextmanager
def entering() -> Iterator[Enter]:
    """Yields a function that moves processes; removes the cgroups at the end."""

    def move(actor: Actor, pod: str, container: str) -> None:
        folder = CGROUP / cgroup_of(pod, container)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.procs").write_text(str(actor.pid))

    yield move
    top = CGROUP / TOP
    for folder in sorted(top.rglob("*"), reverse=True) if top.exists() else ():
        if folder.is_dir():
            _remove(folder)
    _remove(top)


def _remove(folder: Path) -> None:
    """Removes a cgroup, and waits for its last process to leave."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            folder.rmdir()
        if not folder.exists():
            return
        time.sleep(0.02)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
