"""Does the work of the probe at each tick and at the end. ``probe.run.loop`` drives it.

``probe.run.wiring`` opens all parts before it makes the ``Probe``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from probe.config import RunConfig
from probe.enrich.enrichers import Enrichers
from probe.enrich.nat import Nat, no_peers
from probe.enrich.waiting_records import WaitingRecords
from probe.figures import Figures
from probe.flow.batch import FlowBatch
from probe.flow.cache import FlowCache
from probe.flow.columns import RECORD_DTYPE
from probe.flow.filter import FlowFilter, LateNames
from probe.flow.rows import Rows
from probe.guard import Guard
from probe.interfaces.names import InterfaceList
from probe.prometheus.durations import Durations
from probe.prometheus.traffic import ContainerTraffic
from probe.run.causes import split
from probe.run.event_feed import EventFeed
from probe.run.exporter import Exporter
from probe.run.feed import Feed
from probe.run.figures import CauseCounts, Exported, destination_figures, failed_parts
from probe.run.guarded import GuardedInterfaces, GuardedOwners
from probe.run.loop import Watched
from probe.run.own_traffic import OwnTraffic
from probe.sources.source import Source

if TYPE_CHECKING:
    from probe.prometheus.server import MetricsServer
    from probe.snmp.process import SnmpAgent

_SNAPSHOT_SHARE = 100  # a snapshot takes at most one per cent of a core,
_LONGEST_INTERVAL_S = 3.0  # unless the interval would exceed this
_SWEEP_S = 10.0
_FLUSH_LOT = 16384  # records


class Parts:
    """The parts that may fail alone, in the order in which a summary names them."""

    def __init__(self, guard: Guard) -> None:
        self.links = guard.part("interfaces")
        self.veths = guard.part("containers behind interfaces")
        self.nat = guard.part("NAT")
        self.remote = guard.part("names of remote ends")
        self.services = guard.part("Services of Pods of this host")
        self.held = guard.part("records that wait for names", passing=(Exception,))
        self.events = guard.part("events")
        self.feed = guard.part("open sockets and counters of interfaces")
        self.metrics = guard.part("Prometheus")
        self.snmp = guard.part("SNMP")
        self.names = guard.part("names of containers")


@dataclass(eq=False, kw_only=True)
class Probe:
    """A probe that meters, with all its parts opened and wired.

    ``close`` detaches it from the kernel. ``nat``, ``traffic``, ``metrics`` and ``snmp`` are None
    if the configuration turns them off.
    """

    config: RunConfig
    guard: Guard
    parts: Parts
    owners: GuardedOwners
    interfaces: InterfaceList
    interface_table: GuardedInterfaces
    exporter: Exporter
    filter: FlowFilter
    source: Source
    cache: FlowCache
    own: OwnTraffic
    enrichers: Enrichers
    waiting: WaitingRecords
    nat: Nat | None
    causes: CauseCounts
    events: EventFeed
    feed: Feed
    traffic: ContainerTraffic | None
    metrics: MetricsServer | None
    snmp: SnmpAgent | None
    closing: contextlib.ExitStack
    exported: Exported = field(default_factory=Exported)
    tick_times: Durations = field(default_factory=Durations)
    tick_delays: Durations = field(default_factory=Durations)
    sweep_at: float = 0.0

    def tick(self) -> None:
        """Reads a snapshot, and sends the records that are due."""
        started = time.monotonic()
        self.parts.links.call(self.interfaces.refresh)
        self.observe(self.source.read())
        self.parts.events.call(self.events.pass_on)
        self._send_ready()
        self._join_translated()
        self._send(self.cache.expire(time.monotonic_ns(), _wall_offset_ns()))
        self.parts.feed.call(self.feed.tick, time.monotonic())
        self._sweep()
        if self.snmp:
            self.parts.snmp.call(self._tell_snmp, self.snmp)
        self.tick_times.observe(time.monotonic() - started)

    def drain(self) -> None:
        """Empties the rings of the kernel, and sends the records that cannot wait for a tick."""
        self.observe(self.source.drain())
        self.parts.events.call(self.events.pass_on)
        self._send_ready()

    def read_last(self) -> None:
        """Reads the last snapshot. ``finish`` exports it."""
        self.observe(self.source.read(is_last=True))

    def finish(self) -> Iterator[int]:
        """Exports all that the cache holds, and yields after each lot of records.

        The queues of the destinations cannot hold a full cache, so the caller sends between lots.
        """
        self.waiting.stop()
        self.parts.events.call(self.events.pass_on, may_wait=False)
        self._join_translated()
        now_ns, offset_ns = time.monotonic_ns(), _wall_offset_ns()
        for records in (
            self.cache.expire(now_ns, offset_ns),
            self.cache.flush(now_ns, offset_ns),
        ):
            for lot in _lots(records):
                self._send(lot)
                yield len(lot)
        if len(self.waiting):
            self._send(np.zeros(0, RECORD_DTYPE))
        self.parts.links.call(self.interfaces.refresh)
        self.parts.feed.call(self.feed.finish)
        yield 0  # the caller sends, so that the last figures count everything
        self.exporter.finish(time.time())
        yield 0

    def interval_s(self) -> float:
        """Returns the seconds between snapshots: as configured, or more with very many sockets.

        Timeouts and names of containers are checked once per snapshot, so it is bounded.
        """
        due_s = _SNAPSHOT_SHARE * self.source.snapshot_cpu_ns / 1e9
        return max(self.config.interval, min(due_s, _LONGEST_INTERVAL_S))

    def observe(self, batch: FlowBatch) -> None:
        self._refresh_names()
        self.own.remember(self.exporter.local_addresses(), time.monotonic())
        batch = self.own.take_out(batch)
        late = None
        if self.filter.asks_for_owners:
            late = LateNames(self.owners.nameless(time.monotonic()), self.cache.knows)
        batch = self.filter.select(batch, self.owners, late)
        self.cache.observe(batch, time.monotonic_ns())

    def close(self) -> None:
        """Closes all parts. An error is logged, and the other parts are still closed."""
        self.causes.close()
        self.closing.close()

    @property
    def has_purpose(self) -> bool:
        """Returns True while any output of the metered traffic is left."""
        is_scraped = self.metrics and self.parts.metrics.is_on
        is_polled = self.snmp and self.parts.snmp.is_on
        return bool(
            is_scraped or is_polled or self.exporter.has_outlets or not self.exporter.outlets
        )

    def watched(self) -> Iterator[Watched]:
        """Yields the sources that the loop waits for, each with its part and its action."""
        yield self.source, None, self.drain
        if self.interfaces.fileno() >= 0:
            yield self.interfaces, self.parts.links, self.interfaces.refresh
        if self.metrics:
            yield self.metrics, self.parts.metrics, self.metrics.answer

    def refresh_interfaces(self, now: float) -> float:
        """Reads the list of interfaces if it is due at ``now``. Returns when it is due next.

        Both are monotonic seconds. Interfaces may change without an event.
        """
        if now >= self._retry_interfaces_at():
            self.parts.links.call(self.interfaces.refresh)
        return self._retry_interfaces_at()

    def figures(self) -> Figures:
        """Returns the figures of all parts. Only the thread of the loop may call it."""
        losses, notices = split(self.causes.read())
        chosen, own, exported = self.filter, self.own.statistics, self.exported
        outlets = self.exporter.outlets
        return Figures(
            source=type(self.source).__name__.removesuffix("Source").lower(),
            flows=self.cache.observed_flows,
            records=exported.records,
            packets=exported.packets,
            octets=exported.octets,
            own_packets=own.packets,
            own_octets=own.octets,
            excluded_rows=chosen.excluded_rows,
            excluded_flows=chosen.excluded_flows,
            excluded_packets=chosen.excluded_packets,
            excluded_octets=chosen.excluded_octets,
            forgotten_flows=chosen.forgotten_flows,
            cache_flows=self.cache.entries,
            cache_limit=self.config.max_flows,
            waiting_records=len(self.waiting),
            agent_deaths=self.snmp.deaths if self.snmp else 0,
            losses=losses,
            notices=notices,
            destinations=tuple(destination_figures(outlets)),
            failed_parts=tuple(failed_parts(self.guard, outlets)),
            ticks=self.tick_times.copy(),
            tick_delays=self.tick_delays.copy(),
        )

    def _retry_interfaces_at(self) -> float:
        found = self.parts.links.call(self.interfaces.retry_at)
        return float("inf") if found is None else found

    def _join_translated(self) -> None:
        if self.nat and self.parts.nat.is_on:
            find_peers = self.parts.nat.wrap(self.nat.find_peers, no_peers)
            self.cache.join_translated(find_peers, time.monotonic_ns())

    def _send_ready(self) -> None:
        for records in self.cache.take_ready(_wall_offset_ns()):
            self._send(records)

    def _refresh_names(self) -> None:
        """Takes in names that have come, so that filters and records use them."""
        self.exporter.forget(self.owners.refresh())

    def _send(self, records: Rows) -> None:
        self._refresh_names()
        records = self.enrichers.apply(records)
        records = self.filter.select_records(records, self.owners)
        self.owners.mark_unconfirmed(records)
        self.exported.count(records)
        if self.traffic:
            self.parts.metrics.call(self.traffic.count, records)
        self.exporter.send(records, time.time())

    def _sweep(self) -> None:
        now = time.monotonic()
        is_due = now >= self.sweep_at
        if not is_due and not self.source.wants_sweep():
            return
        in_use = set(self.cache.owners_in_use().tolist()) | self.enrichers.owners_in_use()
        in_use |= self.exporter.owners_in_use() | self.events.owners_in_use()
        in_use |= self.feed.owners_in_use()
        released = self.source.sweep_owners(in_use)
        released += self.parts.feed.call(self.feed.sweep_owners) or []
        released += self.enrichers.sweep(in_use, now)
        if released:
            self.exporter.forget(released)
        if is_due:
            self.sweep_at = now + _SWEEP_S
            self.parts.links.call(self.exporter.announce_interfaces)

    def _tell_snmp(self, snmp: SnmpAgent) -> None:
        snmp.tell(self.interface_table.containers())


def _lots(records: Rows) -> Iterator[Rows]:
    """Yields ``records`` in lots of some thousands, with both directions of a flow in one lot."""
    records = records.take(np.argsort(records["flow_id"], kind="stable"))
    start = 0
    while start < len(records):
        end = start + _FLUSH_LOT
        if end < len(records) and records["flow_id"][end - 1] == records["flow_id"][end]:
            end += 1
        yield records[start:end]
        start = end


def _wall_offset_ns() -> int:
    """Returns Unix time minus CLOCK_MONOTONIC now, as the wall clock may be set at any time."""
    return time.time_ns() - time.monotonic_ns()
