"""Interfaces with all that IF-MIB tells of them, and the containers behind them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from probe.flow.owner import ContainerNames
from probe.interfaces.counters import COUNTERS, decode_missed, read_counters
from probe.interfaces.links import Interface, open_route, read_interface
from probe.interfaces.types import if_type, oper_status, read_speed

if TYPE_CHECKING:
    from probe.interfaces.names import InterfaceList

_log = logging.getLogger(__name__)

_IFF_UP = 0x1


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
    counters count."""

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


class LinkTable:
    """``list_`` is kept up to date by whoever reads; ``find_names``: id of a container -> names."""

    def __init__(
        self, list_: InterfaceList, find_names: Callable[[str], ContainerNames | None]
    ) -> None:
        self._list = list_
        self._find_names = find_names
        self._known: dict[int, _Known] = {}
        self._failed = False

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
            known.key = key
            known.link = Link(
                one.index, one.name, one.alias, one.kind, if_type(one), one.mtu, known.speed,
                one.address, bool(one.flags & _IFF_UP), oper_status(one), one.promiscuity > 0,
                one.peer, one.peer_nsid, one.master, known.inner_name, container_id, names,
                changed_s, since_s, _decode(octets),
            )  # fmt: skip
        return known.link


@dataclass(slots=True)
class _Known:
    interface: Interface
    inner_name: str
    speed: int
    key: tuple[object, ...] = ()
    link: Link | None = None


def _decode(octets: bytes) -> Counters:
    (in_packets, out_packets, in_octets, out_octets, in_errors, out_errors, in_dropped, out_dropped,
     multicast) = COUNTERS.unpack_from(octets)  # fmt: skip
    in_discards = in_dropped + decode_missed(octets)
    return Counters(in_octets, in_packets, multicast, in_errors, in_discards,
                    out_octets, out_packets, out_errors, out_dropped)  # fmt: skip
