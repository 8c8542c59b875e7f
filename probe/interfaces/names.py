"""Lists the interfaces of the probe's network namespace, and follows rtnetlink's events.

rtnetlink answers for the namespace of the caller. /sys/class/net cannot replace it, because it
shows the namespace in which sysfs was mounted. No ioctl returns the alias.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from probe.flow.owner import ContainerNames
from probe.interfaces.history import InterfaceHistory
from probe.interfaces.table import InterfaceTable
from probe.netlink.rtnetlink import (
    Change,
    Link,
    read_links,
    receive_changes,
    subscribe,
)

if TYPE_CHECKING:  # it imports numpy, which the SNMP agent's process does not need
    from probe.interfaces.veth import VethMap

log = logging.getLogger(__name__)


class InterfaceList:
    """The links of the probe's network namespace as of the last ``refresh``.

    veths: finds the containers behind them; ``refresh`` keeps it up to date. container_name:
    returns the name of a container by its id. find_names: returns all names of a container by its
    id. history: since when each link has been the same device. table: their counters, and the rest
    of IF-MIB.
    """

    def __init__(
        self,
        veths: VethMap | None = None,
        container_name: Callable[[str], str] = str,
        find_names: Callable[[str], ContainerNames | None] = lambda _: None,
    ) -> None:
        self.veths = veths
        self.history = InterfaceHistory()
        self.table = InterfaceTable(self, find_names)
        self._container_name = container_name
        self._by_index: dict[int, Link] = {}
        self._events: socket.socket | None = None
        self._failed = False

    @property
    def interfaces(self) -> list[Link]:
        return [self._by_index[index] for index in sorted(self._by_index)]

    def described(self) -> list[Link]:
        """Returns ``interfaces``; a veth has its container's name as its description."""
        return [self._describe(interface) for interface in self.interfaces]

    def fileno(self) -> int:
        """Returns a descriptor that is readable after a change, -1 before the first ``refresh``."""
        return self._events.fileno() if self._events else -1

    def retry_at(self) -> float:
        """Returns when ``refresh`` may have news without an event (monotonic seconds)."""
        return self.veths.retry_at() if self.veths else float("inf")

    def refresh(self) -> bool:
        """Returns True if an interface came, is gone, or has another name than before.

        It costs one system call if there was no event. The kernel reports a new alias only while
        the interface is up. If the kernel fails, it warns once and keeps the old list.
        """
        before = self._by_index
        try:
            if self._events is None:
                self._events = subscribe()
                self._read_all()
            else:
                self._read_changes(self._events)
        except OSError as error:
            self.close()  # so that the next call reads all links again
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

    def _describe(self, interface: Link) -> Link:
        container_id = self.veths.container_id(interface.index) if self.veths else ""
        if not container_id:
            return interface
        return replace(interface, description=self._container_name(container_id))

    def _read_all(self) -> None:
        before = self._by_index
        self._by_index = {interface.index: interface for interface in read_links()}
        self.table.keep(self._by_index.values())
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
                if error.errno != errno.ENOBUFS:  # ENOBUFS: events were lost
                    raise
                has_overrun = True
        self._by_index = fresh
        if has_overrun:  # only after the older events were read
            self._read_all()

    def _apply(self, fresh: dict[int, Link], change: Change) -> None:
        one = change.link
        if change.nsid >= 0:
            self.table.note_peer(change)
            return
        before = fresh.get(one.index)
        if change.is_gone:
            container_id = self.veths.release(one) if self.veths else ""
            self.table.end(change, container_id)
            self.history.end(one.index)
            fresh.pop(one.index, None)
        else:
            self.table.note(change, is_new=before is None)
            self.history.note(before, one)
            fresh[one.index] = one
