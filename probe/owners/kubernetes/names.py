"""Names this node's containers by the Kubernetes API, as a ``Runtime``.

Threads of their own speak with the API, and metering reads only what they have learned. A Pod is
known before its first container starts, by its UID, which all its cgroups name. The name of a
container comes with the kubelet's next report, a second or two later.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from probe.errors import ConfigError
from probe.flow.owner import ContainerNames
from probe.owners.kubernetes.api import IN_CLUSTER, KubernetesApi
from probe.owners.kubernetes.objects import Named, read_node, read_pod, read_service
from probe.owners.kubernetes.tenures import RemoteNames
from probe.owners.kubernetes.watch import SILENCE_S, Watch
from probe.owners.runtime import KnownContainers

log = logging.getLogger(__name__)

PODS, SERVICES, NODES = "/api/v1/pods", "/api/v1/services", "/api/v1/nodes"
_ANSWER_S = 10.0
_PAGE = 100  # objects of the cluster per answer; decoded, an answer takes four times its size
#: Time to wait for a container's name: least, most, and factor to the kubelet's recent delay.
_PATIENCE_S, _MOST_PATIENCE_S, _SPARE = 4.0, 20.0, 1.5
_LAG_LASTS_S = 60.0
#: How long names are awaited without the API: a node may start before its network.
_LASTS_S = 15.0
_KEPT_UIDS = 16384


@dataclass(frozen=True, slots=True)
class KubernetesSettings:
    """Settings of the names.

    ``where`` is 'auto', False, True, or a kubeconfig file. ``node`` is the name of this node, ''
    for the usual one. ``labels`` are the keys of Pod labels to export. With ``remote`` the other
    end of a flow is named as well. ``cluster`` is the name of the cluster.
    """

    where: bool | str = "auto"
    node: str = ""
    labels: tuple[str, ...] = ()
    remote: bool = False
    cluster: str = ""


class NodePods:
    """A ``Store`` of names, by the ids of containers and by the UIDs of Pods."""

    def __init__(self) -> None:
        self.containers, self.pods = KnownContainers(), KnownContainers()
        self._of_pod: dict[str, tuple[str, ...]] = {}  # UID of a Pod -> ids of its containers
        self._cgroup_uids: dict[str, str] = {}  # container id -> UID in its cgroups
        self._lag_s, self._lagged_s = 0.0, float("-inf")

    def replace_all(self, found: list[Named]) -> None:
        self._of_pod = {one.uid: _ids(one) for one in found}
        self.pods.replace_all({one.cgroup_uid: one.names for one in found})
        self._cgroup_uids = {key: one.cgroup_uid for one in found for key in _ids(one)}
        self.containers.replace_all(dict(pair for one in found for pair in one.containers))

    def add(self, one: Named) -> None:
        before, now = self._of_pod.get(one.uid, ()), _ids(one)
        self._of_pod[one.uid] = now
        if one.started_ns and set(now) - set(before):
            self._note_lag(time.time() - one.started_ns / 1e9)
        self.pods.add(one.cgroup_uid, one.names)
        self._cgroup_uids.update(dict.fromkeys(now, one.cgroup_uid))
        for container_id, names in one.containers:
            self.containers.add(container_id, names)
        for container_id in set(before) - set(now):
            self.containers.remove(container_id)

    def remove(self, one: Named) -> None:
        for container_id in (*self._of_pod.pop(one.uid, ()), *_ids(one)):
            self.containers.remove(container_id)
        self.pods.remove(one.cgroup_uid)
        self._forget_uids()

    def cgroup_uid(self, container_id: str) -> str:
        """Returns the UID of the Pod of a container, '' if it is unknown."""
        return self._cgroup_uids.get(container_id, "")

    def lag_s(self) -> float:
        """Returns the longest recent time in seconds from a container's start to its name."""
        return self._lag_s if time.monotonic() - self._lagged_s < _LAG_LASTS_S else 0.0

    def _note_lag(self, lag_s: float) -> None:
        if lag_s >= self.lag_s():
            self._lag_s, self._lagged_s = lag_s, time.monotonic()

    def _forget_uids(self) -> None:
        """Forgets the UIDs of containers that are not even kept as ended."""
        if len(self._cgroup_uids) > 2 * len(self.containers) + _KEPT_UIDS:
            known = [key for key in self._cgroup_uids if self.containers.find(key)]
            self._cgroup_uids = {key: self._cgroup_uids[key] for key in known}


def _ids(one: Named) -> tuple[str, ...]:
    return tuple(container_id for container_id, _ in one.containers)


class KubernetesNames:
    """A ``Runtime`` that names the containers of Pods, from ``open`` to ``close``.

    ``remote`` has the names of other ends, or is None if they were not asked for. ``silence_s`` is
    the time-out of a watch without events.
    """

    def __init__(
        self,
        open_api: Callable[[], KubernetesApi],
        node: str,
        labels: tuple[str, ...] = (),
        remote: bool = False,
        silence_s: float = SILENCE_S,
        cluster: str = "",
    ) -> None:
        self.node = node
        self.remote = RemoteNames() if remote else None
        self._here = NodePods()
        read = partial(read_pod, labels=labels, cluster=cluster)
        watch = partial(Watch, open_api=open_api, silence_s=silence_s)
        here = watch(f"Pods of {node}", path=PODS, read=read, store=self._here,
                     selector=f"spec.nodeName={node}")  # fmt: skip
        self._watches = [here]
        if self.remote is not None:
            whole = partial(watch, page=_PAGE)
            read = partial(read, has_containers=False)
            self._watches += [
                whole("Pods", path=PODS, read=read, store=self.remote),
                whole("Services", path=SERVICES, read=partial(read_service, cluster=cluster),
                      store=self.remote.services),
                whole("nodes", path=NODES, read=partial(read_node, cluster=cluster),
                      store=self.remote.nodes),
            ]  # fmt: skip

    def open(self) -> None:
        for watch in self._watches:
            watch.listener.open()

    def find(self, container_id: str, pod_uid: str = "") -> ContainerNames | None:
        return self._here.containers.find(container_id) or self._here.pods.find(pod_uid)

    def is_at(self, container_id: str, cgroup: str, pod_uid: str) -> bool | None:
        """Returns False for a cgroup of another Pod; the API knows no cgroups, so None else."""
        known = self._here.cgroup_uid(container_id)
        return False if known and pod_uid and known != pod_uid else None

    def take_changed(self) -> set[str]:
        return self._here.containers.take_changed() | self._here.pods.take_changed()

    def patience_s(self, in_pod: bool = False) -> float:
        """Returns the seconds to wait for a name, 0 outside of Pods, where no name can come."""
        if not in_pod or self._watches[0].listener.lost_for_s() >= _LASTS_S:
            return 0.0
        return min(max(_PATIENCE_S, _SPARE * self._here.lag_s()), _MOST_PATIENCE_S)

    def close(self) -> None:
        for watch in self._watches:
            watch.listener.close()


def is_wanted(where: bool | str, in_cluster: Path = IN_CLUSTER) -> bool:
    """Returns True if the setting ``kubernetes`` asks for names of Pods."""
    return _is_in_cluster(in_cluster) if where == "auto" else where is not False


def node_name(where: bool | str = False, node: str = "", in_cluster: Path = IN_CLUSTER) -> str:
    """Returns the name of this host in all records: the API's name if Pods are named.

    For ``where`` and ``node`` see KubernetesSettings.
    """
    if not is_wanted(where, in_cluster):
        return os.uname().nodename
    return node or os.environ.get("NODE_NAME") or os.uname().nodename.lower()


def _is_in_cluster(service_account: Path) -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ and service_account.exists()


def open_kubernetes(
    settings: KubernetesSettings, in_cluster: Path = IN_CLUSTER
) -> KubernetesNames | None:
    """Opens the names that the settings ask for, or returns None.

    With 'auto' there are names if the probe runs in a Pod that has a service account. Raises
    ConfigError if names are required, and the package or a configuration is missing.
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
    node = node_name(settings.where, settings.node, in_cluster)
    open_api = partial(KubernetesApi, kubeconfig, _ANSWER_S)
    names = KubernetesNames(
        open_api, node, settings.labels, settings.remote, cluster=settings.cluster
    )
    names.open()
    return names


def _exists(path: str) -> bool:
    return Path(path).expanduser().exists()


def _is_installed() -> bool:
    spec = importlib.util.find_spec("kubernetes")
    return spec is not None and spec.origin is not None  # None for a mere directory
