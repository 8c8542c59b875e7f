"""Who is behind a flow end: a process, its parent, its container and its Pod.

An owner is made once per identity and named by its index, so arrays carry integers and names are
encoded once. Strings are '' and numbers None where they are unknown. A part that nobody is in is
the empty one, such as ``Container()``, so a reader needs no test for None. Many owners share a
part: all processes of a container have the same ``Container`` object.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

_MOST_SHARED = 4096  # of the parts used latest


@dataclass(frozen=True, slots=True)
class Process:
    """A process and its user, as they were when the socket was used.

    ``path_source``: '' for unknown, 'walked' for the kernel's path of the executable within the
    process's root, 'exec' for the file name that exec was given. ``vm_size`` and ``vm_peak`` are
    virtual memory in KiB, as of when the identity was first seen. ``has_own_users``: the names of
    user and group are those of the container, and say nothing of users of the host.
    """

    pid: int | None = None
    name: str = ""
    path: str = ""
    path_source: str = ""
    uid: int | None = None
    gid: int | None = None
    user_name: str = ""
    group_name: str = ""
    has_own_users: bool = False
    vm_size: int | None = None
    vm_peak: int | None = None
    command_line: str = ""


@dataclass(frozen=True, slots=True)
class Container:
    """The innermost container that a process is in.

    ``outer_id``: of the container around it. ``is_doubtful``: somebody other than a runtime could
    have made a cgroup of that name. ``is_unconfirmed``: no runtime says that the process is in this
    container. ``is_proxy``: the process is in none, and forwards to this one (docker-proxy).
    """

    id: str = ""
    outer_id: str = ""
    name: str = ""
    image: str = ""
    compose_project: str = ""
    compose_service: str = ""
    is_doubtful: bool = False
    is_unconfirmed: bool = False
    is_proxy: bool = False


@dataclass(frozen=True, slots=True)
class Pod:
    """A Kubernetes Pod, or a Service or node that an address belongs to.

    ``workload``: what owns the Pod, as 'Deployment/web'. A Service and a node have no ``name``, and
    'Service/web' or 'Node/a' for a workload. ``labels``: those that the user chose. ``cluster``:
    what the user calls the whole.
    """

    name: str = ""
    namespace: str = ""
    uid: str = ""
    workload: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    cluster: str = ""

    @property
    def is_known(self) -> bool:
        """Returns True if the Pod, Service or node has any name."""
        return bool(self.namespace or self.uid or self.workload)


@dataclass(frozen=True, slots=True)
class Node:
    """A host by its name, and the zone that it is in."""

    name: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who is at an end.

    ``service``: the Kubernetes Service that a Pod was reached by, as 'shop/web:http'. ``unit``: the
    systemd unit of a process that is in no container.
    """

    process: Process = Process()
    parent: Process = Process()
    container: Container = Container()
    pod: Pod = Pod()
    node: Node = Node()
    service: str = ""
    cgroup: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class ContainerNames:
    """What a runtime tells of a container, or of the Pod, Service or node at an address.

    ``name`` is '' where only the Pod is known. ``project`` and ``service`` are compose's. ``ports``
    are those of a Service: (protocol, number, name).
    """

    name: str = ""
    image: str = ""
    project: str = ""
    service: str = ""
    pod: Pod = Pod()
    node: Node = Node()
    ports: tuple[tuple[int, int, str], ...] = ()


_Part = TypeVar("_Part", Process, Container, Pod, Node)


def share(part: _Part) -> _Part:
    """Returns an equal part that another owner has, or ``part`` itself."""
    found: _Part = _share(part)
    return found


@lru_cache(_MOST_SHARED)
def _share(part: _Part) -> _Part:
    return part


UNKNOWN = Owner()


class OwnerTable:
    """Index -> Owner; index 0 is the unknown owner. Indices are reused only after ``release``.

    ``node``: what this host is called, '' for what the kernel calls it.
    """

    def __init__(self) -> None:
        self.node = ""
        self._owners: list[Owner | None] = [UNKNOWN]
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._owners) - len(self._free)

    def __getitem__(self, index: int) -> Owner:
        return self._owners[index] or UNKNOWN

    def add(self, owner: Owner) -> int:
        if self._free:
            index = self._free.pop()
            self._owners[index] = owner
            return index
        self._owners.append(owner)
        return len(self._owners) - 1

    def replace(self, index: int, owner: Owner) -> None:
        """Another description of the same process; what was encoded of it is stale from now on."""
        self._owners[index] = owner

    def release(self, index: int) -> None:
        """Forget an owner that no row or record names any more."""
        if index and self._owners[index] is not None:
            self._owners[index] = None
            self._free.append(index)
