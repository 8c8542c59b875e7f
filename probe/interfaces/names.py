"""The interfaces of our network namespace, kept up to date by what rtnetlink tells.

rtnetlink answers for the namespace of the caller; /sys/class/net shows the namespace in which sysfs
was mounted, and no ioctl tells the alias.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from probe.flow.owner import ContainerNames
from probe.interfaces.history import LinkHistory
from probe.interfaces.table import LinkTable
from probe.netlink.rtnetlink import (
    Change,
    Interface,
    read_interfaces,
    receive_changes,
    subscribe,
)

if TYPE_CHECKING:  # numpy comes with it, which the SNMP agent's process has no use for
    from probe.interfaces.veth import VethMap

__all__ = ["Interface", "InterfaceList", "read_interfaces"]

log = logging.getLogger(__name__)


class InterfaceList:
    """``interfaces`` as of the last ``refresh``, the first of which reads them, by index.

    ``veths``: who is behind them, kept up to date as well; ``container_name``: id -> what a
    container is called; ``find_names``: all that its runtime says. ``history``: since when they are
    what they are; ``links``: their counters, and the rest of IF-MIB.
    """

    def __init__(
        self,
        veths: VethMap | None = None,
        container_name: Callable[[str], str] = str,
        find_names: Callable[[str], ContainerNames | None] = lambda _: None,
    ) -> None:
        self.veths = veths
        self.history = LinkHistory()
        self.links = LinkTable(self, find_names)
        self._container_name = container_name
        self._by_index: dict[int, Interface] = {}
        self._events: socket.socket | None = None
        self._failed = False

    @property
    def interfaces(self) -> list[Interface]:
        return [self._by_index[index] for index in sorted(self._by_index)]

    def described(self) -> list[Interface]:
        """As ``interfaces``, a veth by the container behind it."""
        return [self._describe(interface) for interface in self.interfaces]

    def fileno(self) -> int:
        """Readable when the kernel told of a change; -1 before the first ``refresh``."""
        return self._events.fileno() if self._events else -1

    def retry_at(self) -> float:
        """When ``refresh`` may have news without an event (monotonic seconds)."""
        return self.veths.retry_at() if self.veths else float("inf")

    def refresh(self) -> bool:
        """Whether an interface has come, is gone, or has another name than before.

        Costs one system call unless the kernel told of a change (it keeps the alias of an interface
        that is down to itself until that is up). What goes wrong is warned of once; the old list
        stays.
        """
        before = self._by_index
        try:
            if self._events is None:
                self._events = subscribe()
                self._read_all()
            else:
                self._read_changes(self._events)
        except OSError as error:
            self.close()  # so that the next call reads anew
            if not self._failed:
                log.warning("interfaces cannot be read: %s", error)
            self._failed = True
            return False
        self._failed = False
        self.history.keep(self._by_index)
        if self.veths:
            self.veths.update(self._by_index.values())
        return self._by_index != before

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def _describe(self, interface: Interface) -> Interface:
        container_id = self.veths.container_id(interface.index) if self.veths else ""
        if not container_id:
            return interface
        return replace(interface, description=self._container_name(container_id))

    def _read_all(self) -> None:
        before = self._by_index
        self._by_index = {interface.index: interface for interface in read_interfaces()}
        self.links.keep(self._by_index.values())
        for index, interface in self._by_index.items():
            self.history.note(before.get(index), interface)

    def _read_changes(self, events: socket.socket) -> None:
        fresh, has_overrun = dict(self._by_index), False
        while True:
            try:
                for change in receive_changes(events):
                    self._apply(fresh, change)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # more than the socket holds
                    raise
                has_overrun = True
        self._by_index = fresh
        if has_overrun:  # not before all that is older was taken from the socket
            self._read_all()

    def _apply(self, fresh: dict[int, Interface], change: Change) -> None:
        one = change.interface
        if change.nsid >= 0:
            self.links.note_peer(change)
            return
        before = fresh.get(one.index)
        if change.is_gone:
            container_id = self.veths.release(one) if self.veths else ""
            self.links.end(change, container_id)
            self.history.end(one.index)
            fresh.pop(one.index, None)
        else:
            self.links.note(change, is_new=before is None)
            self.history.note(before, one)
            fresh[one.index] = one
