"""The probe: the one place that wires the parts together. ``probe.run.loop`` drives it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from probe.config import RunConfig
from probe.enrich.enrichers import Enricher, Enrichers
from probe.enrich.interface_numbers import InterfaceNumbers
from probe.enrich.nat import Nat, no_peers
from probe.enrich.remote_owners import RemoteOwners
from probe.enrich.service_owners import ServiceOwners
from probe.enrich.waiting_records import WaitingRecords
from probe.errors import ConfigError, MeteringError, SockflowError
from probe.flow.batch import FlowBatch
from probe.flow.cache import FlowCache
from probe.flow.columns import RECORD_DTYPE
from probe.flow.filter import FlowFilter, LateNames, parse_rule
from probe.flow.label import names_label
from probe.flow.rows import Rows
from probe.guard import Guard, Part, close_quietly
from probe.interfaces.names import InterfaceList
from probe.interfaces.veth import VethMap, read_default_route
from probe.log import say
from probe.owners.docker import open_docker
from probe.owners.kubernetes import KubernetesSettings, node_name, open_kubernetes
from probe.owners.users import UserNames
from probe.prometheus.durations import Durations
from probe.prometheus.snapshot import take_snapshot
from probe.prometheus.traffic import ContainerTraffic
from probe.run.causes import split
from probe.run.event_feed import EventFeed
from probe.run.exporter import Exporter
from probe.run.feed import Feed
from probe.run.guarded import GuardedInterfaces, GuardedOwners, GuardedRuntime
from probe.run.heap import keep_freed
from probe.run.loop import Loop
from probe.run.own_traffic import OwnTraffic
from probe.run.shown import Shown
from probe.run.summary import Exported, summarize
from probe.snmp.settings import SnmpSettings
from probe.sources.source import Source, open_source
from probe.stop import StopSignals

if TYPE_CHECKING:
    from probe.export.sink import Sink
    from probe.owners.runtime import Runtime
    from probe.prometheus.server import MetricsServer
    from probe.snmp.process import SnmpAgent

_SNAPSHOT_SHARE = 100  # a snapshot costs at most one per cent of one core,
_LONGEST_INTERVAL_S = 3.0  # unless that means to wait longer than this
_SWEEP_S = 10.0
_FLUSH_LOT = 16384  # records


class Probe:
    """Inert until ``open``, which raises ConfigError or KernelError; ``close`` detaches.

    ``is_guest``: in a program of somebody else, whose traffic is metered as anybody's.
    """

    def __init__(self, config: RunConfig, is_guest: bool = False) -> None:
        self.config = config
        self.guard = guard = Guard()
        self.links_part = guard.part("interfaces")
        self._veths = guard.part("containers behind interfaces")
        self._nat = guard.part("NAT")
        self._remote = guard.part("names of remote ends")
        self._services = guard.part("Services of Pods of this host")
        self._held = guard.part("records that wait for names", passing=(Exception,))
        self._events = guard.part("events")
        self._feed = guard.part("open sockets and counters of interfaces")
        self.metrics_part = guard.part("Prometheus")
        self.snmp_part = guard.part("SNMP")
        self._is_guest = is_guest
        self.owners = GuardedOwners(find_addresses=lambda: veths.addresses())
        self.owners.part = guard.part("names of containers")
        self.owners.node = node_name(config.kubernetes, config.kubernetes_node)
        self.remote: RemoteOwners | None = None
        self.services: ServiceOwners | None = None
        self.waiting = WaitingRecords(self.owners)
        self.enrichers = Enrichers()
        rules = [[parse_rule(text) for text in texts] for texts in (config.include, config.exclude)]
        self.filter = FlowFilter(include=rules[0], exclude=rules[1])
        self.collector: Source
        self._closing = contextlib.ExitStack()
        veths = VethMap(self.owners.container_of, read_default_route)
        self.interfaces = InterfaceList(veths, self._container_name, self.owners.find_names)
        self.interface_table = GuardedInterfaces(self.interfaces, self.owners, self.links_part)
        self.interfaces.table = self.interface_table
        self.exporter = Exporter(config, self.owners, self, self.interfaces, guard)
        self.exported = Exported()
        self.nat: Nat | None = None
        self.tick_times, self.tick_delays = Durations(), Durations()
        self.traffic: ContainerTraffic | None = None
        self.metrics: MetricsServer | None = None
        self.snmp: SnmpAgent | None = None
        self._collector_losses: dict[str, int] = {}
        self._is_metering = False  # until then there is nothing to tell about it

    def open(self, destinations: Sequence[str], sinks: Sequence[Sink] = ()) -> None:
        """``sinks``: what takes the records in this process, beside the ``destinations``."""
        self.exporter.open(destinations)
        for sink in sinks:
            self.exporter.add(sink)
        if self.config.events and not self.exporter.takes_events:
            raise ConfigError(
                "there are events, but no destination that takes them: add -e json:-, a kafka: "
                "one, or ?flows=json to the zmq: one"
            )
        self._open_runtimes()
        users = UserNames(self.config.container_users)
        self.collector = open_source(
            self.config.collector,
            self.owners,
            users,
            self.config.privacy.command_lines,
            self.config.events,
        )
        self._at_close("the collector", self.collector.close)
        self.cache = FlowCache(
            max_entries=self.config.max_flows,
            active_timeout_ns=round(self.config.active_timeout * 1e9),
            idle_timeout_ns=round(self.config.idle_timeout * 1e9),
            host_netns=self.collector.host_netns,
        )
        self._is_metering = True
        self.own = OwnTraffic(self.owners, self.collector.host_netns, self._is_guest)
        self.events = EventFeed(
            self.collector,
            self.exporter,
            self.owners,
            self.own,
            self.filter,
            self._name_remote if self.remote else None,
        )
        if self.config.nat:
            self.nat = Nat(self.collector.host_netns)
            if self.remote:
                self.remote.find_peers = self._nat.wrap(self.nat.find_peers, no_peers)
        self.enrichers = Enrichers(tuple(self._enrichers()))
        if self.config.prometheus:
            self._open_metrics(self.config.prometheus, self.config.prometheus_limit)
        if self.config.snmp:
            self._open_snmp(self.config.snmp)
        self.feed = Feed(
            self.exporter,
            self.owners,
            users,
            self.config.privacy.command_lines,
            self.interface_table.read,
            self.config.interface_interval,
            self.filter,
            self.interface_table.ended.reader(),
        )
        self._at_close("open sockets", self.feed.close)
        self._sweep_at = 0.0

    def tick(self) -> None:
        """One snapshot, and the records that are due."""
        started = time.monotonic()
        self.links_part.call(self.interfaces.refresh)
        self.observe(self.collector.read())
        self._events.call(self.events.pass_on)
        self._send_brief()
        self._join_translated()
        self._send(self.cache.expire(time.monotonic_ns(), _wall_offset_ns()))
        self._feed.call(self.feed.tick, time.monotonic())
        self._sweep()
        if self.snmp:
            self.snmp_part.call(self._tell_snmp, self.snmp)
        self.tick_times.observe(time.monotonic() - started)

    def drain(self) -> None:
        """Make room in the kernel's rings; records that are due at once leave."""
        self.observe(self.collector.drain())
        self._events.call(self.events.pass_on)
        self._send_brief()

    def read_last(self) -> None:
        """The last snapshot; ``finish`` gives out what it brought."""
        self.observe(self.collector.read(is_last=True))

    def finish(self) -> Iterator[int]:
        """All that the cache holds; yields after each lot of records.

        A full cache is more than the destinations' queues hold, so the caller sends between lots.
        """
        self.waiting.stop()
        self._events.call(self.events.pass_on, may_wait=False)
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
        self.links_part.call(self.interfaces.refresh)
        self._feed.call(self.feed.finish)
        yield 0  # the last figures count what has left
        self.exporter.finish(time.time())
        yield 0

    def interval_s(self) -> float:
        """Time between snapshots: as configured, longer on a host with very many sockets.

        Timeouts and the names of containers wait as long, so it is bounded.
        """
        due_s = _SNAPSHOT_SHARE * self.collector.snapshot_cpu_ns / 1e9
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
        close_quietly("interfaces", self.interfaces.close)
        self.enrichers.close()
        self.exporter.close()
        self._closing.close()

    @property
    def has_purpose(self) -> bool:
        """Whether anything is left that somebody could see of what is metered."""
        polled = (self.metrics and self.metrics_part.is_on) or (self.snmp and self.snmp_part.is_on)
        return bool(polled or self.exporter.has_outlets or not self.exporter.outlets)

    def retry_interfaces_at(self) -> float:
        """When ``interfaces`` may have news without an event (monotonic seconds)."""
        found = self.links_part.call(self.interfaces.retry_at)
        return float("inf") if found is None else found

    @property
    def observed_flows(self) -> int:
        return self.cache.observed_flows if self._is_metering else 0

    def ignored(self) -> tuple[int, int]:
        """Packets and octets that the filters left out."""
        return self.filter.excluded_packets, self.filter.excluded_octets

    def losses(self) -> dict[str, int]:
        """What was lost before it became a Flow Record, by cause."""
        return split(self._counts())[0]

    def notices(self) -> dict[str, int]:
        """What went wrong without a loss, by cause (``probe.run.causes``)."""
        return split(self._counts())[1]

    def _counts(self) -> dict[str, int]:
        if not self._is_metering:
            return {}
        with contextlib.suppress(Exception):  # of a collector that broke the latest stay
            self._collector_losses = self.collector.losses()
        counts = {
            **self._collector_losses,
            "packets_after_end": self.cache.lost_packets,
            "late_packets": self.cache.late_packets - self.cache.lost_packets,
            "flows_evicted": self.cache.evicted,
            "ended_interfaces_untold": self.interface_table.ended.untold,
        }
        if self.nat:
            asked = self.nat.statistics
            counts["nat_not_looked_up"] = asked.skipped
            counts["nat_unread"] = asked.unread + asked.errors
        return counts

    def _join_translated(self) -> None:
        if self.nat and self._nat.is_on:
            find_peers = self._nat.wrap(self.nat.find_peers, no_peers)
            self.cache.join_translated(find_peers, time.monotonic_ns())

    def _send_brief(self) -> None:
        for records in self.cache.take_ready(_wall_offset_ns()):
            self._send(records)

    def _name_remote(self, records: Rows) -> None:
        if self.remote:
            self._remote.call(self.remote.apply, records)

    def _refresh_names(self) -> None:
        """Rows are judged, and records leave, with the names that are known by now."""
        self.exporter.forget(self.owners.refresh())

    def _enrichers(self) -> Iterator[tuple[Part, Enricher]]:
        """Yields the steps in their order, each with the part whose end is its end.

        Owners at other hosts are found behind NAT. Services come last: they copy owners with the
        names that records leave with.
        """
        if self.nat:
            yield self._nat, self.nat
        if self.interfaces.veths:
            yield self._veths, InterfaceNumbers(self.interfaces.veths)
        if self.remote:
            yield self._remote, self.remote
        yield self._held, self.waiting
        if self.services:
            yield self._services, self.services

    def _send(self, records: Rows) -> None:
        self._refresh_names()
        records = self.enrichers.apply(records)
        records = self.filter.select_records(records, self.owners)
        self.owners.mark_unconfirmed(records)
        self.exported.count(records)
        if self.traffic:
            self.metrics_part.call(self.traffic.count, records)
        self.exporter.send(records, time.time())

    def _sweep(self) -> None:
        now = time.monotonic()
        is_due = now >= self._sweep_at
        if not is_due and not self.collector.wants_sweep():
            return
        in_use = set(self.cache.owners_in_use().tolist()) | self.enrichers.owners_in_use()
        in_use |= self.exporter.owners_in_use() | self.events.owners_in_use()
        in_use |= self.feed.owners_in_use()
        released = self.collector.sweep_owners(in_use)
        released += self._feed.call(self.feed.sweep_owners) or []
        released += self.enrichers.sweep(in_use, now)
        if released:
            self.exporter.forget(released)
        if is_due:
            self._sweep_at = now + _SWEEP_S
            self.links_part.call(self.exporter.announce_interfaces)

    def _tell_snmp(self, snmp: SnmpAgent) -> None:
        snmp.tell(self.interface_table.containers())

    def _at_close(self, name: str, close: Callable[[], object]) -> None:
        self._closing.callback(close_quietly, name, close)

    def _open_runtimes(self) -> None:
        """Kubernetes first: where it runs its Pods in Docker, it knows more of them."""
        config = self.config
        kubernetes = open_kubernetes(
            KubernetesSettings(
                config.kubernetes, config.kubernetes_node, config.kubernetes_labels,
                config.kubernetes_remote, config.kubernetes_cluster,
            )
        )  # fmt: skip
        if kubernetes and kubernetes.remote is not None:
            self.remote = RemoteOwners(kubernetes.remote, self.owners)
            self.services = ServiceOwners(kubernetes.remote.services, self.owners)
        opened = {"Kubernetes": kubernetes, "Docker": open_docker(config.docker)}
        found: list[Runtime] = []
        for name, runtime in opened.items():
            if runtime is not None:
                self._at_close(name, runtime.close)
                found.append(GuardedRuntime(runtime, self.guard.part(name)))
        remote = kubernetes.remote if kubernetes else None
        find_zone = remote.nodes.zone if remote is not None else None
        self.owners.set_runtimes(tuple(found), find_zone)

    def _open_metrics(self, address: str, limit: int) -> None:
        from probe.prometheus.server import MetricsServer

        self.traffic = ContainerTraffic(self.owners, limit)
        read_ended = self.interface_table.ended.reader()
        self.metrics = MetricsServer(address, limit, lambda: take_snapshot(self, read_ended))
        self._at_close("Prometheus", self.metrics.close)
        self.metrics.open()

    def _open_snmp(self, settings: SnmpSettings) -> None:
        from probe.snmp.process import SnmpAgent

        self.snmp = SnmpAgent(settings, self.config.pen, self.config.verbose)
        self._at_close("SNMP", self.snmp.close)
        self.snmp.open()

    def _container_name(self, container_id: str) -> str:
        return names_label(container_id, self.owners.find_names(container_id))


def run(config: RunConfig) -> None:
    """``sockflow run``. Raises SockflowError; the summary goes to standard error."""
    keep_freed()
    probe = Probe(config)
    shown = None if config.destinations else Shown(config.pen)
    failure: SockflowError | None = None
    try:
        probe.open(config.destinations or (shown.destination if shown else "",))
        if shown:
            shown.follow(probe.exporter.local_addresses)
        with StopSignals(probe.exporter.reopening()) as stop:
            try:
                Loop(probe, stop, shown).run(config.duration)
            except MeteringError as error:
                failure = error
        losses = probe.losses()
    finally:
        if shown:
            close_quietly("the view", shown.close)
        probe.close()
    say(*summarize(probe, losses, shown.source if shown else None))
    if failure:
        raise failure


def _lots(records: Rows) -> Iterator[Rows]:
    """``records`` by some thousands, the two directions of a flow in the same lot."""
    records = records.take(np.argsort(records["flow_id"], kind="stable"))
    start = 0
    while start < len(records):
        end = start + _FLUSH_LOT
        if end < len(records) and records["flow_id"][end - 1] == records["flow_id"][end]:
            end += 1
        yield records[start:end]
        start = end


def _wall_offset_ns() -> int:
    """Unix time minus CLOCK_MONOTONIC, now: the wall clock may be set at any time."""
    return time.time_ns() - time.monotonic_ns()
