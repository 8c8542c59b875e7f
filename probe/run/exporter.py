"""Gives records, events and times to all destinations of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from probe.config import RunConfig
from probe.export.message_sink import Burst, MessageSink
from probe.export.self_report import Metering
from probe.export.share import ShareGroup
from probe.export.sink import EventSink, Reopening, Sink
from probe.export.sink_factory import SinkFactory
from probe.export.transports.sender import PacedSender
from probe.flow.codes import TCP, UDP
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows
from probe.guard import Guard, Part
from probe.interfaces.names import InterfaceList
from probe.netlink.rtnetlink import Link
from probe.run.destinations import open_sink, parse_destination
from probe.run.outlet import Outlet
from probe.run.own_traffic import OwnSocket

if TYPE_CHECKING:
    from probe.interfaces.interface import Interface


class Exporter:
    """All destinations of a run, which get the same calls. There are none before ``open``."""

    def __init__(
        self,
        config: RunConfig,
        owners: OwnerTable,
        metering: Metering,
        interfaces: InterfaceList | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._config = config
        self._owners = owners
        self._metering = metering
        self._guard = guard or Guard()
        self._groups: list[tuple[list[Outlet], ShareGroup | None]] = []
        self._interfaces = interfaces or InterfaceList()
        self._announced: list[Link] = []
        self._burst: Burst | None = None
        self.outlets: list[Outlet] = []
        self.sinks: list[Sink] = []
        #: The sinks that take more than flows.
        self.event_sinks: list[EventSink] = []

    def open(self, destinations: Iterable[str]) -> None:
        """Opens the sinks of these URLs. Raises ConfigError if one of them cannot be opened."""
        self._interfaces.refresh()
        self._announced = self._interfaces.described()
        factory = SinkFactory(
            self._config, self._owners, self._metering, self._interfaces, guard=self._guard
        )
        shared: dict[str, list[Outlet]] = {}
        for target in [parse_destination(text) for text in destinations]:
            part = self._guard.part(f"destination {target}")
            outlet = self._keep(open_sink(target, factory), part)
            if target.share:
                shared.setdefault(target.share, []).append(outlet)
            else:
                self._groups.append(([outlet], None))
        for kind, members in shared.items():
            self._groups.append((members, ShareGroup(kind, [member.name for member in members])))

    def add(self, sink: Sink) -> None:
        """Adds a sink of this process, such as a view. It is in no group of ``share``.

        The sink ends without an error when the reader of its output is gone.
        """
        part = self._guard.part(f"view {sink.name!r}", passing=(BrokenPipeError,))
        self._groups.append(([self._keep(sink, part)], None))

    @property
    def has_outlets(self) -> bool:
        """Returns True while an outlet still takes records."""
        return any(outlet.part.is_on for outlet in self.outlets)

    def send(self, records: Rows, now_s: float) -> None:
        for outlet, share in self._shares(records):
            outlet.send(share, now_s)

    @property
    def takes_events(self) -> bool:
        return any(sink.takes_events for sink in self.event_sinks)

    def send_events(self, events: Rows, now_s: float) -> None:
        """Gives events (EVENT_DTYPE) to the sinks that take them."""
        for outlet in self.outlets:
            outlet.send_events(events, now_s)

    def send_sockets(self, sockets: Rows, now_s: float) -> None:
        """Gives open sockets (SOCKET_DTYPE) to the sinks that take them."""
        for outlet in self.outlets:
            outlet.send_sockets(sockets, now_s)

    def send_interfaces(self, links: Sequence[Interface], now_s: float) -> None:
        for outlet in self.outlets:
            outlet.send_interfaces(links, now_s)

    def finish(self, now_s: float) -> None:
        for outlet in self.outlets:
            outlet.finish(now_s)

    def reopening(self) -> Callable[[], None] | None:
        """Returns the function for SIGHUP, or None if no sink is a file that can be moved."""
        found = [
            (outlet, outlet.sink)
            for outlet in self.outlets
            if isinstance(outlet.sink, Reopening) and outlet.sink.can_reopen
        ]

        def reopen() -> None:
            for outlet, sink in found:
                outlet.do(sink.reopen)

        return reopen if found else None

    def announce_interfaces(self) -> None:
        """Sends the options of interfaces again if one is new or has another name."""
        described = self._interfaces.described()
        if described != self._announced:
            self._announced = described
            for outlet in self.outlets:
                outlet.announce_interfaces()

    def pump(self, now: float) -> float | None:
        """Sends what is due at ``now``.

        Returns when to call again (monotonic seconds), or None if nothing waits.
        """
        if self._burst and not self.outlets[0].part.error:
            try:
                if (due := self._burst(now)) is not None:
                    return due
            except Exception as error:
                self.outlets[0].fail(error)
        earliest: float | None = None
        for outlet in self.outlets:
            due = outlet.pump(now)
            if due is not None and (earliest is None or due < earliest):
                earliest = due
        return earliest

    @property
    def backlog(self) -> int:
        """Returns the number of octets that wait for destinations which can be reached."""
        return sum(outlet.backlog for outlet in self.outlets if not outlet.is_down)

    @property
    def unfinished(self) -> list[Outlet]:
        """Returns outlets whose octets have not all arrived, or wait for a connection."""
        return [outlet for outlet in self.outlets if outlet.unfinished]

    def local_addresses(self) -> list[OwnSocket]:
        """Returns the local address, port and protocol of each destination's socket."""
        found = [(outlet.local_address(), outlet.sink) for outlet in self.outlets]
        return [(*address, _protocol(sink)) for address, sink in found if address]

    def forget(self, owners: list[int]) -> None:
        for outlet in self.outlets:
            outlet.forget(owners)

    def owners_in_use(self) -> set[int]:
        """Returns the indices of owners that a sink still has to describe."""
        return set().union(*(outlet.owners_in_use() for outlet in self.outlets))

    def close(self) -> None:
        """Closes all outlets. What still waits is dropped and counted."""
        for outlet in self.outlets:
            outlet.close(time.monotonic())

    def _keep(self, sink: Sink, part: Part) -> Outlet:
        self.sinks.append(sink)
        self.outlets.append(outlet := Outlet(sink, part))
        is_alone = len(self.sinks) == 1  # with several sinks, each wake-up pumps them all
        self._burst = sink.burst if is_alone and isinstance(sink, MessageSink) else None
        if isinstance(sink, EventSink):
            self.event_sinks.append(sink)
        return outlet

    def _shares(self, records: Rows) -> Iterator[tuple[Outlet, Rows]]:
        for members, group in self._groups:
            if group is None:
                yield members[0], records
            else:
                yield from zip(members, _split(group, records, members), strict=True)


def _split(group: ShareGroup, records: Rows, members: Sequence[Outlet]) -> list[Rows]:
    """Returns the share of each member.

    Records that cannot be divided are lost to all members, and counted at the first one.
    """
    try:
        return group.split(records, _which_are_up(members))
    except Exception as error:
        for member in members:
            member.fail(error)
        return [records, *(records[:0] for _ in members[1:])]


def _which_are_up(members: Sequence[Outlet]) -> list[bool]:
    """Returns which members get flows.

    A member that has recovered only now gets none while a reliable one exists.
    """
    is_reliable = [member.is_reliable for member in members]
    return is_reliable if any(is_reliable) else [not one.is_down for one in members]


def _protocol(sink: Sink) -> int:
    """Returns the protocol of a sink's socket. A sender with a pace sends datagrams."""
    paced = isinstance(sink, MessageSink) and isinstance(sink.sender, PacedSender)
    return UDP if paced else TCP
