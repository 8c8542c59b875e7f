"""Finds the container behind each veth of ours whose peer is in another network namespace.

Theory of operation. The kernel answers three requests, so no namespace is entered or opened:

    veth of ours --> index of its peer, nsid of the peer's namespace     (event or RTM_GETLINK)
    process      --> nsid of its namespace                               (RTM_GETNSID by pid)
    process      --> inode of its namespace, and its container           (/proc)

A veth and a process with the same nsid belong together: the veth is tied to the inode and to the
container. The kernel uses free nsids and inodes again at once. So the first values are read again
at the end, and each tie has a beginning and an end. A record names an inode and a time, and finds
the tie of that time, for as long as records may come.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from probe.flow.record import LOOPBACK, stays_inside
from probe.flow.rows import Rows
from probe.interfaces.namespaces import NetworkNamespaces
from probe.netlink.rtnetlink import (
    Link,
    open_route,
    read_addresses,
    read_link,
    read_nsid,
)

_KEPT = 4096  # namespaces
_KEPT_OF_AN_INODE = 8
#: The pause between reads of all processes while a veth has no known process behind it.
_EVERYTHING_S = 10.0
#: A runtime may make a veth before its process. So a new veth is looked up this often, this long.
_RETRY_S, _RETRIED_S = 0.03, 3.0
#: After _RETRIED_S, the pause between checks whether a process is in a container by now.
_ASKED_AGAIN_S = 30.0


@dataclass(slots=True)
class Namespace:
    """A network namespace with veths of ours.

    veths: index of the peer inside -> index of ours. since_ns: Unix time when the first of them was
    seen. gone_ns: Unix time when the last one was gone, None while one is there.
    """

    inode: int
    nsid: int
    pid: int
    container_id: str
    since_ns: int
    veths: dict[int, int] = field(default_factory=dict)
    gone_ns: int | None = None
    default: int | None = None
    tied_s: float = field(default_factory=time.monotonic)
    asked_s: float = 0.0


@dataclass(slots=True)
class _Veth:
    interface: Link
    seen_ns: int
    seen_s: float
    behind: Namespace | None = None

    @property
    def place(self) -> tuple[int, int]:
        return self.interface.peer, self.interface.peer_nsid


class Kernel:
    """Asks rtnetlink by process id and by index."""

    def read_nsids(self, pids: Iterable[int]) -> dict[int, int]:
        """Returns the nsid of each process that still lives."""
        found: dict[int, int] = {}
        with contextlib.suppress(OSError), open_route() as route:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    found[pid] = read_nsid(route, pid)
        return found

    def read_links(self, indices: Iterable[int]) -> dict[int, Link]:
        """Returns links by index as they are now, without those that are gone."""
        found: dict[int, Link] = {}
        with contextlib.suppress(OSError), open_route() as route:
            for index in indices:
                with contextlib.suppress(OSError):
                    found[index] = read_link(route, index)
        return found

    def read_addresses(self, nsids: Iterable[int]) -> dict[str, int]:
        """Returns the nsid of the namespace that has each address."""
        found: dict[str, int] = {}
        with contextlib.suppress(OSError), open_route() as route:
            for nsid in nsids:
                with contextlib.suppress(OSError):  # gone, or refused
                    found.update(dict.fromkeys(read_addresses(route, nsid), nsid))
        return found


class VethMap:
    """Keeps the ties between veths and containers.

    container_of: returns the container id of a process id, '' for none. default_route: returns the
    index of the interface to which the default route in a process's namespace leads, 0 for none.
    """

    def __init__(
        self,
        container_of: Callable[[int], str],
        default_route: Callable[[int], int],
        namespaces: NetworkNamespaces | None = None,
        kernel: Kernel | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._container_of, self._default_route = container_of, default_route
        self._namespaces = namespaces or NetworkNamespaces()
        self._kernel = kernel or Kernel()
        self._clock_ns = clock_ns
        self._veths: dict[int, _Veth] = {}
        self._by_inode: dict[int, list[Namespace]] = {}
        #: The ties of veths that lost their peer. The events of their ends may still come.
        self._former: dict[int, tuple[Link, Namespace]] = {}
        self._everything_at = 0.0
        self._retry_at = float("inf")
        self._is_first = True

    def update(self, interfaces: Iterable[Link]) -> bool:
        """Takes all our links as of now. Returns True if more veths are tied than before."""
        found = {one.index: one for one in interfaces if one.kind == "veth" and one.peer_nsid >= 0}
        for index, veth in list(self._veths.items()):
            if index not in found or veth.place != (found[index].peer, found[index].peer_nsid):
                self._forget(index)
        now_ns = 0 if self._is_first else self._clock_ns()
        self._is_first = False
        for index, interface in found.items():
            if index not in self._veths:
                self._veths[index] = _Veth(interface, now_ns, time.monotonic())
        return self._resolve()

    def retry_at(self) -> float:
        """Returns when to ``update`` without an event (monotonic seconds), infinity for never."""
        return self._retry_at

    def container_id(self, index: int) -> str:
        """Returns the id of the container behind an interface, '' if there is none."""
        veth = self._veths.get(index)
        if veth is None or veth.behind is None:
            return ""
        if not veth.behind.container_id and veth.behind.gone_ns is None:
            self._ask_again(veth.behind)
        return veth.behind.container_id

    def release(self, gone: Link) -> str:
        """Returns the id of the container that was behind an ended interface, or ''.

        The container's network namespace loses its nsid some moments before the interface ends.
        """
        container_id = self.container_id(gone.index)
        former, space = self._former.pop(gone.index, (None, None))
        if container_id or former is None or space is None or former.address != gone.address:
            return container_id
        return space.container_id

    def addresses(self) -> dict[str, str]:
        """Returns address -> container id, for the containers behind these veths.

        It costs a request for each container.
        """
        for veth in self._veths.values():
            self.container_id(veth.interface.index)
        here = [veth.behind for veth in self._veths.values() if veth.behind]
        by_nsid = {space.nsid: space.container_id for space in here if space.container_id}
        found = self._kernel.read_addresses(by_nsid)
        return {address: by_nsid[nsid] for address, nsid in found.items()}

    def _ask_again(self, space: Namespace) -> None:
        now = time.monotonic()
        if now - space.tied_s < _RETRIED_S or now - space.asked_s > _ASKED_AGAIN_S:
            space.asked_s = now
            if not self._namespaces.is_in(space.pid, space.inode):
                # that process only prepared the namespace, as a runtime's hooks do
                space.pid = (self._namespaces.scan() or {}).get(space.inode, space.pid)
            space.container_id = self._container_of(space.pid)

    def apply(self, records: Rows) -> None:
        """Fills in interfaces of the host in ``records`` (RECORD_DTYPE).

        Records from a container get an ingress_interface, and those to a container an
        egress_interface.
        """
        if not len(records) or not self._by_inode:
            return
        stays = stays_inside(records)
        for side, column in (("source", "ingress"), ("destination", "egress")):
            inodes = records[f"{side}_netns_inode"]
            ifindices = records[f"{side}_ifindex"]
            ifindices = np.where(stays & (ifindices == 0), LOOPBACK, ifindices)
            for at, inode, ifindex in _groups(inodes, ifindices):
                if inode in self._by_inode:
                    self._fill(records, f"{column}_interface", at, inode, ifindex)

    def _fill(
        self, records: Rows, column: str, at: NDArray[np.int64], inode: int, ifindex: int
    ) -> None:
        first_ns, last_ns = records["first_ns"][at], records["last_ns"][at]
        for space in self._by_inode[inode]:  # the latest one that held during the flow wins
            held = last_ns >= space.since_ns
            if space.gone_ns is not None:
                held &= first_ns <= space.gone_ns
            records[column][at[held]] = space.veths.get(ifindex or self._default(space), 0)

    def _default(self, space: Namespace) -> int:
        """Returns the interface inside that leads out, also if there are several."""
        if space.default is None:
            inside = list(space.veths)
            space.default = inside[0] if len(inside) == 1 else self._default_route(space.pid)
        return space.default

    def _forget(self, index: int) -> None:
        """Takes note that an interface is gone. Records of its flows may still come."""
        veth = self._veths.pop(index)
        if veth.behind:
            self._former[index] = veth.interface, veth.behind
            if len(self._former) > _KEPT:
                del self._former[next(iter(self._former))]
        if veth.behind and not any(v.behind is veth.behind for v in self._veths.values()):
            veth.behind.gone_ns = self._clock_ns()

    def _resolve(self) -> bool:
        waiting = [veth for veth in self._veths.values() if veth.behind is None]
        now = time.monotonic()
        if waiting and now >= self._namespaces.due:
            self._look(waiting, now)
        is_young = any(v.behind is None and now - v.seen_s < _RETRIED_S for v in waiting)
        soon = max(now + _RETRY_S, self._namespaces.due)
        self._retry_at = soon if is_young else float("inf")
        return any(veth.behind for veth in waiting)

    def _look(self, waiting: list[_Veth], now: float) -> None:
        """Ties veths to the processes with the same nsid.

        An nsid may pass to a new namespace while veths of the former one still end. So each veth
        and each process is read again before it is tied.
        """
        everything = now >= self._everything_at
        if everything:
            self._everything_at = now + _EVERYTHING_S
        found = self._namespaces.scan(everything) or {}
        ids = self._kernel.read_nsids(found.values())
        by_nsid = {ids[pid]: (inode, pid) for inode, pid in found.items() if ids.get(pid, -1) >= 0}
        chosen = [veth for veth in waiting if veth.interface.peer_nsid in by_nsid]
        fresh = self._kernel.read_links(veth.interface.index for veth in chosen)
        for veth in chosen:
            inode, pid = by_nsid[veth.interface.peer_nsid]
            again = fresh.get(veth.interface.index)
            is_same = again is not None and (again.peer, again.peer_nsid) == veth.place
            if is_same and self._namespaces.is_in(pid, inode):
                self._tie(veth, inode, pid)

    def _tie(self, veth: _Veth, inode: int, pid: int) -> None:
        spaces = self._by_inode.pop(inode, [])
        nsid = veth.interface.peer_nsid
        container_id = self._container_of(pid)
        if not spaces or self._is_over(spaces[-1], nsid, container_id):
            spaces.append(Namespace(inode, nsid, pid, container_id, veth.seen_ns))
        space = veth.behind = spaces[-1]
        space.veths[veth.interface.peer] = veth.interface.index
        space.default = None
        self._by_inode[inode] = spaces[-_KEPT_OF_AN_INODE:]  # the latest ones are last
        while len(self._by_inode) > _KEPT:
            del self._by_inode[next(iter(self._by_inode))]

    def _is_over(self, space: Namespace, nsid: int, container_id: str) -> bool:
        """Returns True if another namespace has the inode now."""
        if space.gone_ns is not None or space.nsid != nsid:
            return True
        is_other = bool(container_id) and container_id != space.container_id
        return is_other and not self._namespaces.is_in(space.pid, space.inode)


def _groups(
    inodes: NDArray[np.uint32], ifindices: NDArray[np.uint32]
) -> Iterator[tuple[NDArray[np.int64], int, int]]:
    """Yields (positions, inode, ifindex) for each pair. Inode 0 means unknown and is left out."""
    present = np.flatnonzero(inodes)
    pairs = inodes[present].astype(np.uint64) << np.uint64(32) | ifindices[present]
    order = np.argsort(pairs, kind="stable")
    ends = np.flatnonzero(np.diff(pairs[order])) + 1
    for part in np.split(order, ends) if len(order) else ():
        first = int(pairs[part[0]])
        yield present[part], first >> 32, first & 0xFFFFFFFF


def read_default_route(pid: int) -> int:
    """Returns the index of the interface of the IPv4 default route, as a process sees it."""
    try:
        with open(f"/proc/{pid}/net/route") as routes:
            name = next((line.split()[0] for line in routes if line.split()[1] == "00000000"), "")
        with open(f"/proc/{pid}/net/dev_snmp6/{name}") as counters:
            return int(counters.readline().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
