"""What people read of who somebody is: the one order that all outputs keep.

shop/web-1/nginx    a container of a Pod
shop/web-1          a Pod of which no container is known
shop/Service/web    a Kubernetes Service
web                 a container in no Pod
0123456789ab        a container whose name nobody tells: the beginning of its id
Node/worker-3       a host by the name that Kubernetes has for it
web?                a container that no runtime confirms
"""

from __future__ import annotations

from probe.flow.owner import Container, ContainerNames, Owner, Pod

DOUBT = "?"
_SHORT_ID = 12  # as docker ps shows it


def short_id(container_id: str) -> str:
    """Returns the beginning of a container's id, as ``docker ps`` shows it."""
    return container_id[:_SHORT_ID]


def owner_label(owner: Owner) -> str:
    """Returns the container, Pod, Service or node of ``owner``, '' for none."""
    return container_label(owner.container, owner.pod)


def names_label(container_id: str, names: ContainerNames | None) -> str:
    """Returns the label of a container by what a runtime tells of it; None: nobody knows it."""
    names = names or ContainerNames()
    return container_label(Container(container_id, name=names.name), names.pod)


def container_label(container: Container, pod: Pod) -> str:
    """Returns the label of ``container`` in ``pod``; either may be the empty one."""
    if pod.namespace:
        label = "/".join(filter(None, (pod.namespace, pod.name or pod.workload, container.name)))
    else:
        label = container.name or short_id(container.id) or pod.workload
    return mark_doubt(label, container)


def name_in_pod(container: Container, pod: Pod) -> str:
    """Returns the name of ``container`` where its Pod is told beside it, as in Prometheus' labels.

    The container that only holds a Pod has none. A container of no known Pod is told by the
    beginning of its id rather than not at all.
    """
    name = container.name or ("" if pod.name else short_id(container.id))
    return mark_doubt(name, container)


def mark_doubt(name: str, container: Container) -> str:
    """Returns ``name`` with a '?' behind it where no runtime confirms the container."""
    return name + DOUBT if name and container.is_unconfirmed else name
