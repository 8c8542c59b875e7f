"""Who is behind a flow end: interned, so that arrays carry integers and names are encoded once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Owner:
    """A process with its parent, user and container, as stamped when the socket was used.

    Strings are '' and ids None where unknown. ``path_source``: '' unknown, 'walked' (the kernel's
    path of the executable within the process's root), 'exec' (the file name given to exec).
    Virtual memory (``vm_size``, and ``vm_peak`` so far) is in KiB, as of when the identity was
    first seen. ``has_own_users``: the names of user and group are those of the container itself,
    and say nothing of users of the host. ``outer_container_id``: of the container that the
    innermost one runs in; ``is_doubtful``: others than a runtime could have made a cgroup of that
    name; ``is_unconfirmed``: no runtime says that the process is in that container; ``is_proxy``:
    the process is in none, and stands for the one that is told (docker-proxy).
    ``workload``: what owns the Pod, as 'Deployment/web'; ``labels``: those of the Pod that the user
    chose. ``node``: the name of the host that the process runs on, ``zone`` where that is, and
    ``cluster`` what it belongs to, as the user calls it. ``service``: the Kubernetes Service that a
    Pod of elsewhere was reached by, as 'shop/web:http'. ``unit``: of systemd, for a
    process in no container.
    """

    pid: int | None = None
    process_name: str = ""
    process_path: str = ""
    path_source: str = ""
    parent_pid: int | None = None
    parent_name: str = ""
    parent_path: str = ""
    uid: int | None = None
    gid: int | None = None
    user_name: str = ""
    group_name: str = ""
    has_own_users: bool = False
    parent_uid: int | None = None
    parent_gid: int | None = None
    parent_user_name: str = ""
    vm_size: int | None = None
    vm_peak: int | None = None
    parent_vm_size: int | None = None
    parent_vm_peak: int | None = None
    command_line: str = ""
    cgroup: str = ""
    container_id: str = ""
    is_doubtful: bool = False
    is_unconfirmed: bool = False
    outer_container_id: str = ""
    is_proxy: bool = False
    container_name: str = ""
    container_image: str = ""
    compose_project: str = ""
    compose_service: str = ""
    pod_name: str = ""
    pod_namespace: str = ""
    pod_uid: str = ""
    workload: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    node: str = ""
    zone: str = ""
    cluster: str = ""
    service: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class ContainerNames:
    """Strings are '' where there is none; ``project`` and ``service`` are compose's, what comes
    after them is of the Pod that the container is in. ``name`` is '' if only that is known, ``pod``
    if it is a Service ('Service/web' is the ``workload`` then), with its ``ports`` (protocol,
    number, name), or a node ('Node/a')."""

    name: str = ""
    image: str = ""
    project: str = ""
    service: str = ""
    pod: str = ""
    namespace: str = ""
    pod_uid: str = ""
    workload: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    node: str = ""
    zone: str = ""
    cluster: str = ""
    ports: tuple[tuple[int, int, str], ...] = ()

    @property
    def full(self) -> str:
        """As people write it: namespace/pod/container, or what of it is known."""
        return full_name(self.namespace, self.pod, self.name, self.workload)


def full_name(namespace: str, pod: str, container: str, workload: str = "") -> str:
    """As people write it: 'shop/web-1/nginx', 'shop/web-1' where the container is not known,
    'shop/Service/web', or the name of the container."""
    named = (namespace, pod or workload, container) if namespace else (container,)
    return "/".join(filter(None, named))


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
