"""Gives owners and records the names of their containers, whenever these come.

Usually a container's name is known before its first process runs, so its owners have it from the
beginning. If it comes later, the owners are described again, and their records wait for it. A
record that has left cannot get a name any more.
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
    """An OwnerTable that adds the names of containers and Pods, as runtimes know them."""

    def __init__(
        self,
        runtimes: tuple[Runtime, ...] = (),
        find_addresses: Callable[[], dict[str, str]] = dict,
    ) -> None:
        """Makes a table; ``find_addresses`` returns address -> id of the container that has it."""
        super().__init__()
        self._runtimes = runtimes
        self._find_zone: Callable[[str], str] = _no_zone
        self._proxies = Proxies(find_addresses)
        self._by_key: dict[str, set[int]] = {}  # container id or Pod UID -> owners
        self._pods: dict[str, str] = {}  # container id -> UID of its Pod; the latest ones
        self._doubts: dict[int, int] = {}  # owner -> bits to add to its source
        self._nameless: dict[str, float] = {}  # container id -> first tick without a name

    def set_runtimes(
        self,
        runtimes: tuple[Runtime, ...],
        find_zone: Callable[[str], str] | None = None,
    ) -> None:
        """Sets the runtimes; the next ``refresh`` gives present owners their names.

        The first runtime that knows a container names it. ``find_zone`` returns the zone of a node,
        '' if it is unknown.
        """
        self._runtimes = runtimes
        self._find_zone = find_zone or _no_zone

    def container_of(self, pid: int) -> str:
        """Returns the id of the container in which a process is, '' for none.

        After this, ``find_names`` knows the Pod of that container. It does so even if the runtime
        does not list the container, as the one that holds the Pod.
        """
        cgroup = read_cgroup(f"/proc/{pid}")
        place = read_place(cgroup)
        if self._is_at(place.container_id, cgroup, place.pod_uid) is False:
            return place.outer_container_id
        self._note_pod(place.container_id, place.pod_uid)
        return place.container_id

    def find_names(self, container_id: str) -> ContainerNames | None:
        """Returns the names of a container, or else of its Pod."""
        return self._find(container_id, self._pods.get(container_id, ""))

    def mark_unconfirmed(self, records: Rows) -> None:
        """Marks unconfirmed owners in the owner sources of ``records`` (RECORD_DTYPE)."""
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
        """Renames the owners in newly named containers, and returns their indices."""
        changed = self._place_proxies()
        for runtime in self._runtimes:
            for key in runtime.take_changed():
                changed += [index for index in self._by_key.get(key, ()) if self._rename(index)]
        return changed

    def nameless(self, now_s: float) -> NDArray[np.int64]:
        """Returns the owners whose container may be named soon; call it at every tick."""
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
        """Prefers names of the container to those of its Pod only."""
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
        """Puts proxies into the containers for which they work."""
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
        is_here = container_id or (pod_uid and owner.cgroup)  # remote Pods are named already
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
        """Returns True or False as runtimes know the cgroup, None else; one False decides."""
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
    """Returns ``owner``, marked with whether runtimes confirm its container."""
    if owner.container.is_unconfirmed != is_confirmed:
        return owner
    container = dataclasses.replace(owner.container, is_unconfirmed=not is_confirmed)
    return dataclasses.replace(owner, container=share(container))


def _no_zone(_: str) -> str:
    return ""


def _cgroup_uid(owner: Owner) -> str:
    """Returns the Pod UID in cgroups; the API has another one for a Pod from a manifest file."""
    return (pod_uid(owner.cgroup) if owner.cgroup else "") or owner.pod.uid


def _keys(owner: Owner) -> list[str]:
    return [key for key in (owner.container.id, _cgroup_uid(owner)) if key]
