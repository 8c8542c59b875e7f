"""Names of this node's containers from Kubernetes, as a ``Runtime``.

All that is asked of the API happens in threads of their own, and metering asks only what these
know. The Pod is known before its first container starts, by its UID, which every cgroup of it
names; a container's own name comes with the kubelet's next report, a second or two later.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from probe.errors import ConfigError
from probe.flow.owner import ContainerNames
from probe.metadata.kubernetes.api import IN_CLUSTER, KubernetesApi
from probe.metadata.kubernetes.objects import Named, read_pod, read_service
from probe.metadata.kubernetes.remote import RemoteNames
from probe.metadata.kubernetes.watch import SILENCE_S, Watch
from probe.metadata.runtime import KnownContainers

log = logging.getLogger(__name__)

PODS, SERVICES = "/api/v1/pods", "/api/v1/services"
_ANSWER_S = 10.0
_PAGE = 100  # of the cluster's objects: what is made of an answer takes its size four times
_PATIENCE_S = 4.0
#: A node may be under way while its network is not.
_LASTS_S = 15.0


@dataclass(frozen=True, slots=True)
class KubernetesSettings:
    """``where``: 'auto', False, True, or a kubeconfig file; ``node``: '' for what is usual;
    ``labels``: keys of those of Pods to tell; ``remote``: name the other end as well."""

    where: bool | str = "auto"
    node: str = ""
    labels: tuple[str, ...] = ()
    remote: bool = False


class NodePods:
    """A ``Store``: names by the ids of containers and by the UIDs of Pods."""

    def __init__(self) -> None:
        self.containers, self.pods = KnownContainers(), KnownContainers()
        self._of_pod: dict[str, tuple[str, ...]] = {}  # UID -> ids of its containers

    def replace_all(self, found: list[Named]) -> None:
        self._of_pod = {one.uid: _ids(one) for one in found}
        self.pods.replace_all({one.names.pod_uid: one.names for one in found})
        self.containers.replace_all(dict(pair for one in found for pair in one.containers))

    def add(self, one: Named) -> None:
        before, now = self._of_pod.get(one.uid, ()), _ids(one)
        self._of_pod[one.uid] = now
        self.pods.add(one.names.pod_uid, one.names)
        for container_id, names in one.containers:
            self.containers.add(container_id, names)
        for container_id in set(before) - set(now):
            self.containers.remove(container_id)

    def remove(self, one: Named) -> None:
        for container_id in (*self._of_pod.pop(one.uid, ()), *_ids(one)):
            self.containers.remove(container_id)
        self.pods.remove(one.names.pod_uid)


def _ids(one: Named) -> tuple[str, ...]:
    return tuple(container_id for container_id, _ in one.containers)


class KubernetesNames:
    """A ``Runtime``. Inert until ``open``. ``remote``: names of other ends, None unless asked for.

    answer_s, silence_s: time-outs of an answer, and of a watch without events.
    """

    def __init__(
        self,
        open_api: Callable[[], KubernetesApi],
        node: str,
        labels: tuple[str, ...] = (),
        remote: bool = False,
        silence_s: float = SILENCE_S,
    ) -> None:
        self.node = node
        self.remote = RemoteNames() if remote else None
        self._here = NodePods()
        read = partial(read_pod, labels=labels)
        watch = partial(Watch, open_api=open_api, silence_s=silence_s)
        here = watch(f"Pods of {node}", path=PODS, read=read, store=self._here,
                     selector=f"spec.nodeName={node}")  # fmt: skip
        self._watches = [here]
        if self.remote is not None:
            cluster = partial(watch, page=_PAGE)
            read = partial(read, has_containers=False)
            self._watches += [
                cluster("Pods", path=PODS, read=read, store=self.remote),
                cluster("Services", path=SERVICES, read=read_service, store=self.remote.services),
            ]

    def open(self) -> None:
        for watch in self._watches:
            watch.listener.open()

    def find(self, container_id: str, pod_uid: str = "") -> ContainerNames | None:
        return self._here.containers.find(container_id) or self._here.pods.find(pod_uid)

    def is_at(self, container_id: str, cgroup: str, pod_uid: str) -> bool | None:
        """It tells of no cgroups, but a container never leaves its Pod."""
        known = self._here.containers.find(container_id)
        return False if known and known.pod_uid != pod_uid else None

    def take_changed(self) -> set[str]:
        return self._here.containers.take_changed() | self._here.pods.take_changed()

    def patience_s(self, in_pod: bool = False) -> float:
        """Only what is in a Pod is ever named here."""
        return _PATIENCE_S if in_pod and self._watches[0].listener.lost_for_s() < _LASTS_S else 0.0

    def close(self) -> None:
        for watch in self._watches:
            watch.listener.close()


def is_wanted(where: bool | str, in_cluster: Path = IN_CLUSTER) -> bool:
    """Whether Pods shall be named, as the setting ``kubernetes`` says."""
    return _is_in_cluster(in_cluster) if where == "auto" else where is not False


def _is_in_cluster(service_account: Path) -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ and service_account.exists()


def open_kubernetes(
    settings: KubernetesSettings, in_cluster: Path = IN_CLUSTER
) -> KubernetesNames | None:
    """As the settings say. 'auto' is names in a Pod that has a service account, else none.

    ConfigError: it was asked for, and the package is missing, or there is no configuration.
    """
    is_in_cluster = _is_in_cluster(in_cluster)
    if not is_wanted(settings.where, in_cluster):
        return None
    if not _is_installed():
        if settings.where != "auto":
            raise ConfigError(
                "--kubernetes needs the Python package kubernetes: "
                "pip install 'sockflow[kubernetes]'"
            )
        log.info("no names of Pods: pip install 'sockflow[kubernetes]'")
        return None
    kubeconfig = settings.where if isinstance(settings.where, str) else ""
    if kubeconfig == "auto" or (settings.where is True and is_in_cluster):
        kubeconfig = ""
    elif not kubeconfig:
        kubeconfig = os.environ.get("KUBECONFIG") or "~/.kube/config"
    if kubeconfig and not any(map(_exists, kubeconfig.split(os.pathsep))):
        raise ConfigError(f"--kubernetes: there is no {kubeconfig}")
    node = settings.node or os.environ.get("NODE_NAME") or os.uname().nodename.lower()
    open_api = partial(KubernetesApi, kubeconfig, _ANSWER_S)
    names = KubernetesNames(open_api, node, settings.labels, settings.remote)
    names.open()
    return names


def _exists(path: str) -> bool:
    return Path(path).expanduser().exists()


def _is_installed() -> bool:
    spec = importlib.util.find_spec("kubernetes")
    return spec is not None and spec.origin is not None  # any directory passes for a package
