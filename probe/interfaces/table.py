"""Adds to interfaces their counters, the rest of IF-MIB, and the containers behind them."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

from probe.flow.owner import ContainerNames
from probe.interfaces.ended import EndedInterfaces
from probe.interfaces.history import InterfaceHistory, is_same
from probe.interfaces.interface import Counters, Interface
from probe.interfaces.types import if_type, oper_status, read_speed
from probe.netlink.link_statistics import (
    COUNTERS,
    decode_missed,
    highest,
    of_other_end,
    read_counters,
)
from probe.netlink.rtnetlink import Change, Link, open_route, read_link

_log = logging.getLogger(__name__)

_IFF_UP = 0x1
_NOT_PRESENT = 6  # ifOperStatus


class Veths(Protocol):
    """Finds the containers behind veths: ``VethMap``, which imports numpy, or a stand-in."""

    def container_id(self, index: int) -> str: ...


class Links(Protocol):
    """The links of our network namespace: ``InterfaceList``, which owns this table."""

    @property
    def interfaces(self) -> list[Link]: ...
    @property
    def history(self) -> InterfaceHistory: ...
    @property
    def veths(self) -> Veths | None: ...

    def refresh(self) -> bool: ...


class InterfaceTable:
    """Interfaces with their counters.

    Theory of operation. A dump returns the counters of all interfaces that exist. The last counters
    of an interface come with the event of its end. For a veth, this event lacks the received
    packets: its peer counted them, and the peer is gone by then. So earlier events of the veth and
    of its peer are noted, too. The highest value of each counter is the last one.

    list_: the links. It refreshes when the table is read. find_names: returns the names of a
    container by its id.
    """

    def __init__(
        self,
        list_: Links,
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
        #: Interfaces that are gone, with their last counters; ``ended.reader()`` gives each once.
        self.ended = EndedInterfaces(find_names)

    def read(self) -> list[Interface]:
        """Returns all interfaces as of now, by index. An unchanged one is the same object.

        If the kernel fails, it returns none and warns once.
        """
        try:
            counters = read_counters()
        except OSError as error:
            if not self._failed:
                _log.warning("counters of interfaces cannot be read: %s", error)
            self._failed = True
            return []
        self._failed = False
        self._list.refresh()  # after the counters, so that a later interface has none
        interfaces = [one for one in self._list.interfaces if one.index in counters]
        self._learn(interfaces)
        return [self._read_one(one, counters[one.index]) for one in interfaces]

    def note(self, change: Change, is_new: bool) -> None:
        """Notes the counters of an event, as the last event may lack some of them."""
        one = change.link
        if not change.counters or one.kind != "veth":
            return
        told = None if is_new else self._told.get(one.index)
        if told is None:
            came = is_new and any(change.counters[: COUNTERS.size])
            told = self._told[one.index] = _Told(came_from_elsewhere=came)
        told.counters = highest(told.counters, change.counters)
        self._place(one)

    def note_peer(self, change: Change) -> None:
        """Notes the counters of the other end of a veth, in the namespace of a container."""
        index = self._by_place.get((change.nsid, change.link.index))
        if index is not None and change.counters:
            told = self._told.setdefault(index, _Told())
            told.counters = highest(told.counters, of_other_end(change.counters))

    def keep(self, interfaces: Collection[Link]) -> None:
        """Forgets the counters of all other links: the events of their ends were lost."""
        indices = {one.index for one in interfaces}
        self._told = {index: told for index, told in self._told.items() if index in indices}
        self._by_place.clear()
        for one in interfaces:
            self._place(one)

    def _place(self, one: Link) -> None:
        if one.kind == "veth" and one.peer and one.peer_nsid >= 0:
            self._by_place[one.peer_nsid, one.peer] = one.index

    def end(self, gone: Change, container_id: str) -> None:
        """Takes the last counters of a link that is gone, before its history forgets it."""
        one = gone.link
        told = self._told.pop(one.index, _Told())
        for place in [place for place, index in self._by_place.items() if index == one.index]:
            del self._by_place[place]
        known = self._known.pop(one.index, None)
        if known is None or not is_same(known.link, one):
            known = _Known(one, "", 0)
        if not gone.counters or (known.interface is None and _is_passing(gone, told)):
            return
        octets = highest(highest(gone.counters, told.counters), known.octets)
        since_s, now_s = self._list.history.since_s(one.index), self._clock()
        last = self._make(one, known, octets, container_id, now_s, since_s)
        self.ended.add(replace(last, is_admin_up=False, oper_status=_NOT_PRESENT, is_gone=True))

    def containers(self) -> dict[int, tuple[str, ContainerNames | None, str]]:
        """Returns id and names of the container behind each veth, and the veth's name inside.

        The answer is as of the last refresh of the list. It reads no counter.
        """
        interfaces, veths = self._list.interfaces, self._list.veths
        self._learn(interfaces)
        found: dict[int, tuple[str, ContainerNames | None, str]] = {}
        for one in interfaces:
            container_id = veths.container_id(one.index) if veths and one.kind == "veth" else ""
            if container_id:
                inner_name = self._known[one.index].inner_name if one.index in self._known else ""
                found[one.index] = container_id, self._find_names(container_id), inner_name
        return found

    def _learn(self, interfaces: list[Link]) -> None:
        """Reads, for new or changed interfaces, what takes another system call."""
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
                        inner_name = read_link(route, one.peer, one.peer_nsid).name
                self._known[one.index] = _Known(one, inner_name, read_speed(one))

    def _is_known(self, link: Link) -> bool:
        """Returns True if no event replaced the object. A name inside changes only while down."""
        known = self._known.get(link.index)
        return known is not None and known.link is link

    def _read_one(self, one: Link, octets: bytes) -> Interface:
        veths, history = self._list.veths, self._list.history
        container_id = veths.container_id(one.index) if veths and one.kind == "veth" else ""
        names = self._find_names(container_id) if container_id else None
        known = self._known.get(one.index) or _Known(one, "", 0)
        changed_s, since_s = history.changed_s(one.index), history.since_s(one.index)
        key = (octets, container_id, names, changed_s, since_s)
        if known.interface is None or known.key != key:
            known.key, known.octets = key, octets
            known.interface = self._make(one, known, octets, container_id, changed_s, since_s)
        return known.interface

    def _make(
        self,
        one: Link,
        known: _Known,
        octets: bytes,
        container_id: str,
        changed_s: float,
        since_s: float,
    ) -> Interface:
        names = self._find_names(container_id) if container_id else None
        return Interface(
            one.index, one.name, one.alias, one.kind, if_type(one), one.mtu, known.speed,
            one.address, bool(one.flags & _IFF_UP), oper_status(one), one.promiscuity > 0,
            one.peer, one.peer_nsid, one.master, known.inner_name, container_id, names,
            changed_s, since_s, _decode(octets),
        )  # fmt: skip


@dataclass(slots=True)
class _Known:
    link: Link
    inner_name: str
    speed: int
    octets: bytes = b""
    key: tuple[object, ...] = ()
    interface: Interface | None = None


@dataclass(slots=True)
class _Told:
    """The highest counters of a veth in any event.

    came_from_elsewhere: it had counted before it came, so it was in another network namespace.
    """

    counters: bytes = b""
    came_from_elsewhere: bool = False


def _is_passing(gone: Change, told: _Told) -> bool:
    """Returns True for a container's end of a veth, which only passed through our namespace.

    A runtime makes both ends here and moves one away. Docker moves it back to delete it.
    """
    return told.came_from_elsewhere or (gone.is_moved and not any(gone.counters[: COUNTERS.size]))


def _decode(octets: bytes) -> Counters:
    (in_packets, out_packets, in_octets, out_octets, in_errors, out_errors, in_dropped, out_dropped,
     multicast) = COUNTERS.unpack_from(octets)  # fmt: skip
    in_discards = in_dropped + decode_missed(octets)
    return Counters(in_octets, in_packets, multicast, in_errors, in_discards,
                    out_octets, out_packets, out_errors, out_dropped)  # fmt: skip
