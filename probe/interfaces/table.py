"""Interfaces with all that IF-MIB tells of them, and the containers behind them."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from probe.flow.owner import ContainerNames
from probe.interfaces.ended import EndedLinks
from probe.interfaces.history import is_same
from probe.interfaces.types import if_type, oper_status, read_speed
from probe.netlink.link_statistics import (
    COUNTERS,
    decode_missed,
    highest,
    of_other_end,
    read_counters,
)
from probe.netlink.rtnetlink import Change, Interface, open_route, read_interface

if TYPE_CHECKING:
    from probe.interfaces.names import InterfaceList

_log = logging.getLogger(__name__)

_IFF_UP = 0x1
_NOT_PRESENT = 6  # ifOperStatus


@dataclass(frozen=True, slots=True)
class Counters:
    """Of the host's side, as rtnetlink has them (struct rtnl_link_stats64): what comes in of a veth
    is what its container sends. ``in_packets`` are all that came in, multicast included.
    ``in_discards``: what the kernel dropped, and what the device had no room for."""

    in_octets: int = 0
    in_packets: int = 0
    in_multicast: int = 0
    in_errors: int = 0
    in_discards: int = 0
    out_octets: int = 0
    out_packets: int = 0
    out_errors: int = 0
    out_discards: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """An interface of our network namespace. ``type``, ``oper_status``: numbers of IANAifType-MIB
    and of ifOperStatus; ``speed``: bits a second, 0 when unknown; ``kind``, ``peer``, ``peer_nsid``
    as in ``Interface``; ``master``: the bridge that it is a port of, 0 for none; ``inner_name``: of
    a veth, what its peer is called inside of the container; ``names``: of the container behind it,
    None where nobody knows them. Unix times: when the status last changed, and since when the
    counters count. ``is_gone``: these are its last counters, ``changed_s`` is when it went."""

    index: int
    name: str
    alias: str = ""
    kind: str = ""
    type: int = 1
    mtu: int = 0
    speed: int = 0
    address: bytes = b""
    is_admin_up: bool = False
    oper_status: int = 4
    is_promiscuous: bool = False
    peer: int = 0
    peer_nsid: int = -1
    master: int = 0
    inner_name: str = ""
    container_id: str = ""
    names: ContainerNames | None = None
    changed_s: float = 0.0
    since_s: float = 0.0
    counters: Counters = Counters()
    is_gone: bool = False


class LinkTable:
    """``list_`` is kept up to date by whoever reads; ``find_names``: id of a container -> names."""

    def __init__(
        self,
        list_: InterfaceList,
        find_names: Callable[[str], ContainerNames | None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._list = list_
        self._find_names = find_names
        self._known: dict[int, _Known] = {}
        self._failed = False
        self._told: dict[int, _Told] = {}
        #: (nsid, index) of the peer of a veth -> index of the veth.
        self._by_place: dict[tuple[int, int], int] = {}
        #: Links that are gone, with their last counters: ``ended.reader()`` tells each once.
        self.ended = EndedLinks(find_names)

    def read(self) -> list[Link]:
        """All interfaces as of now, by index; what did not change is the same object as before.

        What goes wrong is warned of once, and then the table is empty.
        """
        try:
            counters = read_counters()
        except OSError as error:
            if not self._failed:
                _log.warning("counters of interfaces cannot be read: %s", error)
            self._failed = True
            return []
        self._failed = False
        self._list.refresh()  # behind the counters: who has come since then has none
        interfaces = [one for one in self._list.interfaces if one.index in counters]
        self._learn(interfaces)
        return [self._link(one, counters[one.index]) for one in interfaces]

    def note(self, change: Change, is_new: bool) -> None:
        """Keep what an event tells of counters: the last one may not have all of them."""
        one = change.interface
        if not change.counters or one.kind != "veth":
            return
        told = None if is_new else self._told.get(one.index)
        if told is None:
            came = is_new and any(change.counters[: COUNTERS.size])
            told = self._told[one.index] = _Told(came_from_elsewhere=came)
        told.counters = highest(told.counters, change.counters)
        self._place(one)

    def note_peer(self, change: Change) -> None:
        """The same of the other end, in the namespace of a container."""
        index = self._by_place.get((change.nsid, change.interface.index))
        if index is not None and change.counters:
            told = self._told.setdefault(index, _Told())
            told.counters = highest(told.counters, of_other_end(change.counters))

    def keep(self, interfaces: Collection[Interface]) -> None:
        """Forget what events told of all others: those of their ends were lost."""
        indices = {one.index for one in interfaces}
        self._told = {index: told for index, told in self._told.items() if index in indices}
        self._by_place.clear()
        for one in interfaces:
            self._place(one)

    def _place(self, one: Interface) -> None:
        if one.kind == "veth" and one.peer and one.peer_nsid >= 0:
            self._by_place[one.peer_nsid, one.peer] = one.index

    def end(self, gone: Change, container_id: str) -> None:
        """Take the last counters of a link that is gone, before its history forgets it."""
        one = gone.interface
        told = self._told.pop(one.index, _Told())
        for place in [place for place, index in self._by_place.items() if index == one.index]:
            del self._by_place[place]
        known = self._known.pop(one.index, None)
        if known is None or not is_same(known.interface, one):
            known = _Known(one, "", 0)
        if not gone.counters or (known.link is None and _is_passing(gone, told)):
            return
        octets = highest(highest(gone.counters, told.counters), known.octets)
        since_s, now_s = self._list.history.since_s(one.index), self._clock()
        link = self._make(one, known, octets, container_id, now_s, since_s)
        self.ended.add(replace(link, is_admin_up=False, oper_status=_NOT_PRESENT, is_gone=True))

    def containers(self) -> dict[int, tuple[str, ContainerNames | None, str]]:
        """Of each veth with a container behind it: the container's id and names, and what the
        interface is called inside. As of the last refresh of the list; no counter is read."""
        interfaces, veths = self._list.interfaces, self._list.veths
        self._learn(interfaces)
        found: dict[int, tuple[str, ContainerNames | None, str]] = {}
        for one in interfaces:
            container_id = veths.container_id(one.index) if veths and one.kind == "veth" else ""
            if container_id:
                inner_name = self._known[one.index].inner_name if one.index in self._known else ""
                found[one.index] = container_id, self._find_names(container_id), inner_name
        return found

    def _learn(self, interfaces: list[Interface]) -> None:
        """What takes another system call, of those that came or changed."""
        fresh = [one for one in interfaces if not self._is_known(one)]
        if not fresh and len(self._known) == len(interfaces):
            return
        here = {one.index for one in interfaces}
        self._known = {index: known for index, known in self._known.items() if index in here}
        with contextlib.suppress(OSError), open_route() as route:
            for one in fresh:
                inner_name = ""
                with contextlib.suppress(OSError):  # refused, or gone
                    if one.kind == "veth" and one.peer_nsid >= 0:
                        inner_name = read_interface(route, one.peer, one.peer_nsid).name
                self._known[one.index] = _Known(one, inner_name, read_speed(one))

    def _is_known(self, interface: Interface) -> bool:
        """An event makes another object of it; the name inside changes only while it is down."""
        known = self._known.get(interface.index)
        return known is not None and known.interface is interface

    def _link(self, one: Interface, octets: bytes) -> Link:
        veths, history = self._list.veths, self._list.history
        container_id = veths.container_id(one.index) if veths and one.kind == "veth" else ""
        names = self._find_names(container_id) if container_id else None
        known = self._known.get(one.index) or _Known(one, "", 0)
        changed_s, since_s = history.changed_s(one.index), history.since_s(one.index)
        key = (octets, container_id, names, changed_s, since_s)
        if known.link is None or known.key != key:
            known.key, known.octets = key, octets
            known.link = self._make(one, known, octets, container_id, changed_s, since_s)
        return known.link

    def _make(
        self,
        one: Interface,
        known: _Known,
        octets: bytes,
        container_id: str,
        changed_s: float,
        since_s: float,
    ) -> Link:
        names = self._find_names(container_id) if container_id else None
        return Link(
            one.index, one.name, one.alias, one.kind, if_type(one), one.mtu, known.speed,
            one.address, bool(one.flags & _IFF_UP), oper_status(one), one.promiscuity > 0,
            one.peer, one.peer_nsid, one.master, known.inner_name, container_id, names,
            changed_s, since_s, _decode(octets),
        )  # fmt: skip


@dataclass(slots=True)
class _Known:
    interface: Interface
    inner_name: str
    speed: int
    octets: bytes = b""
    key: tuple[object, ...] = ()
    link: Link | None = None


@dataclass(slots=True)
class _Told:
    """The highest counters that events told of a veth. ``came_from_elsewhere``: it had some when it
    came, so it was a link of another network namespace."""

    counters: bytes = b""
    came_from_elsewhere: bool = False


def _is_passing(gone: Change, told: _Told) -> bool:
    """A link that was never really here. Whoever makes a container makes both ends of its veth here
    and moves one of them away; Docker moves it back here to delete it."""
    return told.came_from_elsewhere or (gone.is_moved and not any(gone.counters[: COUNTERS.size]))


def _decode(octets: bytes) -> Counters:
    (in_packets, out_packets, in_octets, out_octets, in_errors, out_errors, in_dropped, out_dropped,
     multicast) = COUNTERS.unpack_from(octets)  # fmt: skip
    in_discards = in_dropped + decode_missed(octets)
    return Counters(in_octets, in_packets, multicast, in_errors, in_discards,
                    out_octets, out_packets, out_errors, out_dropped)  # fmt: skip
