"""Containers behind veths: for each veth of ours whose peer is in another network namespace, that
namespace and the container in it.

The kernel tells of a veth the index of its peer and the id (nsid) of the peer's namespace, and of a
process the id of the namespace that it is in. So no namespace is entered, and no descriptor of one
is opened. What became of a veth is remembered for as long as records may ask: inodes of namespaces
are given anew as soon as they are free, so it is said when each one held.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from probe.flow.batch import Rows
from probe.interfaces.links import Interface, open_route, read_nsid
from probe.interfaces.namespaces import NetworkNamespaces

log = logging.getLogger(__name__)

_LOOPBACK, _LOOPBACK_NET = 1, 127
_KEPT = 4096  # namespaces
_KEPT_OF_AN_INODE = 8
#: A whole look at all processes, where a veth has nobody behind it that we know.
_EVERYTHING_S = 10.0


@dataclass(slots=True)
class Namespace:
    """Veths by the index of their peer: interface inside -> interface of ours. From ``since_ns``
    (Unix time) on, until another one has the same inode."""

    inode: int
    pid: int
    container_id: str
    since_ns: int
    veths: dict[int, int] = field(default_factory=dict)
    is_gone: bool = False
    default: int | None = None


@dataclass(slots=True)
class _Veth:
    interface: Interface
    seen_ns: int
    behind: Namespace | None = None

    @property
    def place(self) -> tuple[int, int]:
        return self.interface.peer, self.interface.peer_nsid


class VethMap:
    """``container_of``: process id -> id of its container, '' for none; ``default_route``: process
    id -> index of the interface that the default route in its namespace leads to, 0: none."""

    def __init__(
        self,
        container_of: Callable[[int], str],
        default_route: Callable[[int], int],
        namespaces: NetworkNamespaces | None = None,
        nsids: Callable[[Iterable[int]], dict[int, int]] | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._container_of, self._default_route = container_of, default_route
        self._namespaces = namespaces or NetworkNamespaces()
        self._nsids = nsids or read_nsids
        self._clock_ns = clock_ns
        self._veths: dict[int, _Veth] = {}
        self._by_inode: dict[int, list[Namespace]] = {}
        self._everything_at = 0.0
        self._is_first = True

    def update(self, interfaces: Iterable[Interface]) -> bool:
        """``interfaces``: all of ours, as of now. Whether it is known of more veths than before
        who is behind them."""
        found = {one.index: one for one in interfaces if one.kind == "veth" and one.peer_nsid >= 0}
        for index, veth in list(self._veths.items()):
            if index not in found or veth.place != (found[index].peer, found[index].peer_nsid):
                self._forget(index)
        now_ns = 0 if self._is_first else self._clock_ns()
        self._is_first = False
        for index, interface in found.items():
            if index not in self._veths:
                self._veths[index] = _Veth(interface, now_ns)
        return self._resolve()

    def container_id(self, index: int) -> str:
        """Of the container behind an interface of ours, '' where there is none."""
        veth = self._veths.get(index)
        if veth is None or veth.behind is None:
            return ""
        if not veth.behind.container_id and not veth.behind.is_gone:
            veth.behind.container_id = self._container_of(veth.behind.pid)
        return veth.behind.container_id

    def apply(self, records: Rows) -> None:
        """Fills ingress_interface of ``records`` (RECORD_DTYPE) that come out of a container, and
        egress_interface of those that go into one."""
        if not len(records) or not self._by_inode:
            return
        stays = _stays_inside(records)
        for side, column in (("source", "ingress"), ("destination", "egress")):
            inodes = records[f"{side}_netns_inode"]
            ifindices = records[f"{side}_ifindex"]
            ifindices = np.where(stays & (ifindices == 0), _LOOPBACK, ifindices)
            for at, inode, ifindex in _groups(inodes, ifindices):
                if inode in self._by_inode:
                    self._fill(records, f"{column}_interface", at, inode, ifindex)

    def _fill(
        self, records: Rows, column: str, at: NDArray[np.int64], inode: int, ifindex: int
    ) -> None:
        times = records["last_ns"][at]
        for space in self._by_inode[inode]:  # the latest that began before the flow's end wins
            index = space.veths.get(ifindex or self._default(space), 0)
            records[column][at[times >= space.since_ns]] = index

    def _default(self, space: Namespace) -> int:
        """Of several interfaces inside the one that leads out."""
        if space.default is None:
            inside = list(space.veths)
            space.default = inside[0] if len(inside) == 1 else self._default_route(space.pid)
        return space.default

    def _forget(self, index: int) -> None:
        """The interface is gone; records of its flows may still come."""
        veth = self._veths.pop(index)
        if veth.behind and not any(v.behind is veth.behind for v in self._veths.values()):
            veth.behind.is_gone = True

    def _resolve(self) -> bool:
        waiting = [veth for veth in self._veths.values() if veth.behind is None]
        if not waiting:
            return False
        everything = (now := time.monotonic()) >= self._everything_at
        if (found := self._namespaces.scan(everything)) is None:
            return False
        if everything:
            self._everything_at = now + _EVERYTHING_S
        ids = self._nsids(found.values())
        by_nsid = {ids[pid]: (inode, pid) for inode, pid in found.items() if ids.get(pid, -1) >= 0}
        known = [veth for veth in waiting if veth.place[1] in by_nsid]
        for veth in known:
            self._tie(veth, *by_nsid[veth.place[1]])
        return bool(known)

    def _tie(self, veth: _Veth, inode: int, pid: int) -> None:
        spaces = self._by_inode.pop(inode, [])
        if not spaces or spaces[-1].is_gone:
            spaces.append(Namespace(inode, pid, self._container_of(pid), veth.seen_ns))
        space = veth.behind = spaces[-1]
        space.veths[veth.interface.peer] = veth.interface.index
        space.default = None
        self._by_inode[inode] = spaces[-_KEPT_OF_AN_INODE:]  # last: the others are older
        while len(self._by_inode) > _KEPT:
            del self._by_inode[next(iter(self._by_inode))]


def _stays_inside(records: Rows) -> NDArray[np.bool_]:
    """What is loopback traffic even where the socket does not tell its interface."""
    address = records["source_address"]
    stays = (records["ip_version"] == 4) & (address[:, 0] == _LOOPBACK_NET)
    same = records["source_netns"] == records["destination_netns"]
    stays |= same & (records["source_netns"] != 0)
    few = np.flatnonzero(~stays)
    stays[few] |= (address[few] == records["destination_address"][few]).all(axis=1)
    found: NDArray[np.bool_] = stays
    return found


def _groups(
    inodes: NDArray[np.uint32], ifindices: NDArray[np.uint32]
) -> Iterator[tuple[NDArray[np.int64], int, int]]:
    """(positions, inode, ifindex) for each pair that there is; inode 0 is nobody."""
    present = np.flatnonzero(inodes)
    pairs = inodes[present].astype(np.uint64) << np.uint64(32) | ifindices[present]
    order = np.argsort(pairs, kind="stable")
    ends = np.flatnonzero(np.diff(pairs[order])) + 1
    for part in np.split(order, ends) if len(order) else ():
        first = int(pairs[part[0]])
        yield present[part], first >> 32, first & 0xFFFFFFFF


def read_nsids(pids: Iterable[int]) -> dict[int, int]:
    """Process id -> id of its network namespace in ours, without those that cannot be read."""
    found: dict[int, int] = {}
    try:
        with open_route() as route:
            for pid in pids:
                try:
                    found[pid] = read_nsid(route, pid)
                except ProcessLookupError:
                    continue
    except OSError as error:
        log.debug("ids of network namespaces cannot be read: %s", error)
    return found


def read_default_route(pid: int) -> int:
    """Index of the interface that the IPv4 default route of a process's namespace leads to."""
    try:
        with open(f"/proc/{pid}/net/route") as routes:
            name = next((line.split()[0] for line in routes if line.split()[1] == "00000000"), "")
        with open(f"/proc/{pid}/net/dev_snmp6/{name}") as counters:
            return int(counters.readline().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
