"""Names of containers for owners and records, whenever they come.

Usually a container's name is known before its first process runs, and its owners have it from the
beginning. Where it comes later, owners are described anew, and their records wait for it: a name
that is missing cannot be added to a record that has left.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from probe.flow.codes import UNCONFIRMED, UNCONFIRMED_PATH
from probe.flow.owner import Container, ContainerNames, Node, Owner, OwnerTable, share
from probe.flow.rows import Rows
from probe.owners.container import pod_uid, read_place
from probe.owners.procfs import read_cgroup
from probe.owners.proxy import Proxies
from probe.owners.runtime import Runtime

_SIDES = ("source_owner", "destination_owner")
_MOST_PODS = 8192  # containers


class ContainerOwners(OwnerTable):
    """An OwnerTable that fills in what runtimes know of the containers and Pods of its owners."""

    def __init__(
        self,
        runtimes: tuple[Runtime, ...] = (),
        find_addresses: Callable[[], dict[str, str]] = dict,
    ) -> None:
        """``find_addresses``: address -> id of the container that has it now."""
        super().__init__()
        self._runtimes = runtimes
        self._find_zone: Callable[[str], str] = _no_zone
        self._proxies = Proxies(find_addresses)
        self._by_key: dict[str, set[int]] = {}  # id of a container, or UID of a Pod -> owners
        self._pods: dict[str, str] = {}  # id of a container -> UID of its Pod; the latest
        self._doubts: dict[int, int] = {}  # owner -> what is added to its source
        self._nameless: dict[str, float] = {}  # container id -> when it was first asked for

    def set_runtimes(
        self,
        runtimes: tuple[Runtime, ...],
        find_zone: Callable[[str], str] | None = None,
    ) -> None:
        """From now on; owners that are here already get their names with the next ``refresh``.

        The first that knows a container names it. ``find_zone``: where a node is, '' where nobody
        knows.
        """
        self._runtimes = runtimes
        self._find_zone = find_zone or _no_zone

    def container_of(self, pid: int) -> str:
        """The id of the container that a process is in, '' for none; ``find_names`` will know its
        Pod, also of one that the runtime does not tell of, such as the one that holds the Pod."""
        cgroup = read_cgroup(f"/proc/{pid}")
        place = read_place(cgroup)
        if self._is_at(place.container_id, cgroup, place.pod_uid) is False:
            return place.outer_container_id
        self._note_pod(place.container_id, place.pod_uid)
        return place.container_id

    def find_names(self, container_id: str) -> ContainerNames | None:
        """What is known of a container, or else of the Pod that it is in."""
        return self._find(container_id, self._pods.get(container_id, ""))

    def mark_unconfirmed(self, records: Rows) -> None:
        """Says so in the owner sources of ``records`` (RECORD_DTYPE)."""
        if not self._doubts:
            return
        doubts = np.zeros(1 + max(self._doubts), np.uint8)
        doubts[list(self._doubts)] = list(self._doubts.values())
        for side in _SIDES:
            owners = records[side]
            told = doubts.take(np.where(owners < len(doubts), owners, 0))
            records[f"{side}_source"] |= told

    def add(self, owner: Owner) -> int:
        index = super().add(named := self._named(owner))
        self._note_doubt(index, named)
        self._note_pod(owner.container.id, _cgroup_uid(owner))
        self._note_keys(index, owner)
        self._proxies.note(index, owner, time.monotonic())
        return index

    def replace(self, index: int, owner: Owner) -> None:
        super().replace(index, owner)
        self._note_doubt(index, owner)

    def release(self, index: int) -> None:
        owner = self[index]
        self._doubts.pop(index, None)
        for key in _keys(owner):
            indices = self._by_key.get(key, set())
            indices.discard(index)
            if not indices:
                self._by_key.pop(key, None)
                self._nameless.pop(key, None)
        self._proxies.forget(index)
        super().release(index)

    def refresh(self) -> list[int]:
        """Describes anew the owners in containers that have been named; their indices."""
        changed = self._place_proxies()
        for runtime in self._runtimes:
            for key in runtime.take_changed():
                changed += [index for index in self._by_key.get(key, ()) if self._rename(index)]
        return changed

    def nameless(self, now_s: float) -> NDArray[np.int64]:
        """Owners whose container may still be named soon; call it at every tick."""
        patience_s = {in_pod: self._patience_s(in_pod) for in_pod in (False, True)}
        found = self._proxies.young(now_s)
        for container_id, since_s in self._nameless.items():
            if since_s == 0.0:
                self._nameless[container_id] = since_s = now_s
            if now_s - since_s < patience_s[container_id in self._pods]:
                found += self._by_key.get(container_id, ())
        return np.array(found, np.int64)

    def _patience_s(self, in_pod: bool) -> float:
        return max((runtime.patience_s(in_pod) for runtime in self._runtimes), default=0.0)

    def _find(self, container_id: str, pod_uid: str) -> ContainerNames | None:
        """Of a container rather than of its Pod only."""
        found = [runtime.find(container_id, pod_uid) for runtime in self._runtimes]
        known = [names for names in found if names]
        return next((names for names in known if names.name), known[0] if known else None)

    def _note_pod(self, container_id: str, pod_uid: str) -> None:
        if container_id and pod_uid and container_id not in self._pods:
            while len(self._pods) >= _MOST_PODS:
                del self._pods[next(iter(self._pods))]
            self._pods[container_id] = pod_uid

    def _note_keys(self, index: int, owner: Owner) -> None:
        for key in _keys(owner):
            self._by_key.setdefault(key, set()).add(index)

    def _note_doubt(self, index: int, owner: Owner) -> None:
        doubts = UNCONFIRMED * owner.container.is_unconfirmed
        doubts |= UNCONFIRMED_PATH * (owner.process.path_source == "exec")
        if doubts:
            self._doubts[index] = doubts
        else:
            self._doubts.pop(index, None)

    def _place_proxies(self) -> list[int]:
        """Who stands for a container is told with it."""
        found = self._proxies.resolve(time.monotonic())
        for index, container_id in found.items():
            owner = dataclasses.replace(
                self[index], container=Container(container_id, is_proxy=True)
            )
            self._note_keys(index, owner)
            self.replace(index, self._named(owner))
        return list(found)

    def _rename(self, index: int) -> bool:
        owner = self[index]
        named = self._named(owner)
        if named == owner:
            return False
        self.replace(index, named)
        return True

    def _named(self, owner: Owner) -> Owner:
        owner = self._placed(owner)
        container_id, pod_uid = owner.container.id, _cgroup_uid(owner)
        is_here = container_id or (pod_uid and owner.cgroup)  # a Pod of elsewhere has its names
        if not self._runtimes or not is_here:
            return owner
        is_at = None
        if not owner.container.is_proxy:
            is_at = self._is_at(container_id, owner.cgroup, pod_uid)
        if is_at is False:
            return _confirmed(with_names(owner, ContainerNames()), False)
        found = self._find(container_id, pod_uid)
        if found and found.name:
            self._nameless.pop(container_id, None)
        elif container_id:
            self._nameless.setdefault(container_id, 0.0)
        named = with_names(owner, found) if found else owner
        return _confirmed(named, bool(found and (is_at or not owner.container.is_doubtful)))

    def _placed(self, owner: Owner) -> Owner:
        """Returns ``owner`` with its node's name and zone; an owner of elsewhere has its own."""
        is_here = owner.process.pid or owner.cgroup
        name = (is_here and self.node) or owner.node.name
        node = Node(name, owner.node.zone or self._find_zone(name))
        return owner if node == owner.node else dataclasses.replace(owner, node=share(node))

    def _is_at(self, container_id: str, cgroup: str, pod_uid: str) -> bool | None:
        """Whether a container has that cgroup: no, where one runtime that knows it says no."""
        if not cgroup:
            return None
        said = [one.is_at(container_id, cgroup, pod_uid) for one in self._runtimes]
        return False if False in said else True if True in said else None


def with_names(owner: Owner, names: ContainerNames) -> Owner:
    """Returns ``owner`` in the container, or the Pod, that has these names."""
    container = dataclasses.replace(
        owner.container,
        name=names.name,
        image=names.image,
        compose_project=names.project,
        compose_service=names.service,
    )
    pod = names.pod if names.pod.uid else dataclasses.replace(names.pod, uid=owner.pod.uid)
    node = Node(names.node.name or owner.node.name, names.node.zone or owner.node.zone)
    return dataclasses.replace(owner, container=share(container), pod=share(pod), node=share(node))


def _confirmed(owner: Owner, is_confirmed: bool) -> Owner:
    """Returns ``owner`` with what runtimes say: whether it is in its container."""
    if owner.container.is_unconfirmed != is_confirmed:
        return owner
    container = dataclasses.replace(owner.container, is_unconfirmed=not is_confirmed)
    return dataclasses.replace(owner, container=share(container))


def _no_zone(_: str) -> str:
    return ""


def _cgroup_uid(owner: Owner) -> str:
    """The UID that runtimes know a Pod by; what is told of a Pod of a manifest is another one."""
    return (pod_uid(owner.cgroup) if owner.cgroup else "") or owner.pod.uid


def _keys(owner: Owner) -> list[str]:
    return [key for key in (owner.container.id, _cgroup_uid(owner)) if key]
