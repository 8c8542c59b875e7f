"""Opens the parts of a probe and wires them together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from probe.config import RunConfig
from probe.enrich.enrichers import Enricher, Enrichers
from probe.enrich.interface_numbers import InterfaceNumbers
from probe.enrich.nat import Nat, no_peers
from probe.enrich.remote_owners import RemoteOwners
from probe.enrich.service_owners import ServiceOwners
from probe.enrich.waiting_records import WaitingRecords
from probe.errors import ConfigError
from probe.flow.cache import FlowCache
from probe.flow.filter import FlowFilter, parse_rule
from probe.flow.label import names_label
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows
from probe.guard import Guard, Part, close_quietly
from probe.interfaces.names import InterfaceList
from probe.interfaces.veth import VethMap, read_default_route
from probe.owners.kubernetes import KubernetesNames, KubernetesSettings, node_name
from probe.owners.runtimes import RUNTIMES, open_runtimes
from probe.owners.users import UserNames
from probe.prometheus.snapshot import take_snapshot
from probe.prometheus.traffic import ContainerTraffic
from probe.run.event_feed import EventFeed
from probe.run.exporter import Exporter
from probe.run.feed import Feed
from probe.run.figures import CauseCounts, ReadFigures
from probe.run.guarded import GuardedInterfaces, GuardedOwners, GuardedRuntime
from probe.run.own_traffic import OwnTraffic
from probe.run.probe import Parts, Probe
from probe.sources.registry import open_source
from probe.sources.source import Source

if TYPE_CHECKING:
    from probe.export.sink import Sink
    from probe.interfaces.interface import Interface
    from probe.owners.runtime import Runtime
    from probe.prometheus.server import MetricsServer
    from probe.snmp.process import SnmpAgent

MakeSinks = Callable[[OwnerTable], Sequence["Sink"]]


def no_sinks(_: OwnerTable) -> Sequence[Sink]:
    """Makes no sinks, for a process that takes no records itself."""
    return ()


def open_probe(
    config: RunConfig,
    destinations: Sequence[str] = (),
    make_sinks: MakeSinks = no_sinks,
    is_guest: bool = False,
) -> Probe:
    """Returns a probe that is attached to the kernel. Raises ConfigError or KernelError.

    ``make_sinks`` gets the table of owners, and returns the sinks of this process, in addition to
    the ``destinations``. With ``is_guest`` the process belongs to another program, and its traffic
    is metered like any other.
    """
    with contextlib.ExitStack() as closing:
        wiring = _Wiring(config, closing)
        wiring.open_destinations(destinations, make_sinks)
        probe = wiring.open(is_guest)
    wiring.told.read = probe.figures
    return probe


class _Wiring:
    """The parts that later parts need to be opened. ``closing`` closes all in reverse order."""

    def __init__(self, config: RunConfig, closing: contextlib.ExitStack) -> None:
        self._config, self._closing = config, closing
        self._guard = Guard()
        self._parts = Parts(self._guard)
        self.told = ReadFigures()
        self._users = UserNames(config.container_users)
        veths: VethMap
        self._owners = GuardedOwners(self._parts.names, lambda: veths.addresses())
        self._owners.node = node_name(config.kubernetes, config.kubernetes_node)
        veths = VethMap(self._owners.container_of, read_default_route)
        self._interfaces = InterfaceList(veths, self._container_name, self._owners.find_names)
        self._table = GuardedInterfaces(self._interfaces, self._owners, self._parts.links)
        self._interfaces.table = self._table
        self._exporter = Exporter(config, self._owners, self.told, self._interfaces, self._guard)
        self._filter = make_filter(config)

    def open_destinations(self, destinations: Sequence[str], make_sinks: MakeSinks) -> None:
        """Opens the destinations, and adds the sinks of this process.

        Raises ConfigError if one cannot be opened, or if events are on and none takes them.
        """
        self._at_close("the destinations", self._exporter.close)
        self._at_close("interfaces", self._interfaces.close)
        self._exporter.open(destinations)
        for sink in make_sinks(self._owners):
            self._exporter.add(sink)
        if self._config.events and not self._exporter.takes_events:
            raise ConfigError(
                "there are events, but no destination that takes them: add -e json:-, a kafka: "
                "one, or ?flows=json to the zmq: one"
            )

    def open(self, is_guest: bool) -> Probe:
        remote, services = self._open_runtimes()
        source = self._open_source()
        cache = _cache(self._config, source)
        own = OwnTraffic(self._owners, source.host_netns, is_guest)
        waiting = WaitingRecords(self._owners)
        nat = self._open_nat(source, remote)
        enrichers = Enrichers(tuple(self._steps(nat, remote, waiting, services)))
        self._at_close("names and addresses", enrichers.close)
        traffic, metrics = self._open_metrics()
        return Probe(
            config=self._config,
            guard=self._guard,
            parts=self._parts,
            owners=self._owners,
            interfaces=self._interfaces,
            interface_table=self._table,
            exporter=self._exporter,
            filter=self._filter,
            source=source,
            cache=cache,
            own=own,
            enrichers=enrichers,
            waiting=waiting,
            nat=nat,
            causes=CauseCounts(source, cache, self._table, nat),
            events=self._event_feed(source, own, remote),
            traffic=traffic,
            metrics=metrics,
            snmp=self._open_snmp(),
            feed=self._open_feed(),
            closing=self._closing.pop_all(),  # evaluated last, after all parts are open
        )

    def _open_runtimes(self) -> tuple[RemoteOwners | None, ServiceOwners | None]:
        """Opens the runtimes. Returns the owners of remote ends and of Services, if any."""
        choices = {kind.name: getattr(self._config, kind.name) for kind in RUNTIMES}
        found: list[Runtime] = []
        remote = None
        for kind, runtime in open_runtimes(choices, _kubernetes_settings(self._config)).items():
            self._at_close(kind.title, runtime.close)
            found.append(GuardedRuntime(runtime, self._guard.part(kind.title)))
            if isinstance(runtime, KubernetesNames):
                remote = runtime.remote
        self._owners.set_runtimes(tuple(found), None if remote is None else remote.nodes.zone)
        if remote is None:
            return None, None
        return RemoteOwners(remote, self._owners), ServiceOwners(remote.services, self._owners)

    def _open_source(self) -> Source:
        config = self._config
        source = open_source(
            config.collector, self._owners, self._users, config.privacy.command_lines, config.events
        )
        self._at_close("the source of flows", source.close)
        return source

    def _open_nat(self, source: Source, remote: RemoteOwners | None) -> Nat | None:
        if not self._config.nat:
            return None
        nat = Nat(source.host_netns)
        if remote:
            remote.find_peers = self._parts.nat.wrap(nat.find_peers, no_peers)
        return nat

    def _steps(
        self,
        nat: Nat | None,
        remote: RemoteOwners | None,
        waiting: WaitingRecords,
        services: ServiceOwners | None,
    ) -> Iterator[tuple[Part, Enricher]]:
        """Yields the steps of enrichment in their order, each with its part.

        NAT comes before remote owners, which are found by their addresses behind NAT. Services
        come last, since they copy owners with their final names.
        """
        if nat:
            yield self._parts.nat, nat
        if self._interfaces.veths:
            yield self._parts.veths, InterfaceNumbers(self._interfaces.veths)
        if remote:
            yield self._parts.remote, remote
        yield self._parts.held, waiting
        if services:
            yield self._parts.services, services

    def _event_feed(
        self, source: Source, own: OwnTraffic, remote: RemoteOwners | None
    ) -> EventFeed:
        name_remote: Callable[[Rows], object] | None = None
        if remote:
            part, apply = self._parts.remote, remote.apply

            def name_remote(records: Rows) -> object:
                return part.call(apply, records)

        return EventFeed(source, self._exporter, self._owners, own, self._filter, name_remote)

    def _open_metrics(self) -> tuple[ContainerTraffic | None, MetricsServer | None]:
        address, limit = self._config.prometheus, self._config.prometheus_limit
        if not address:
            return None, None
        from probe.prometheus.server import MetricsServer

        traffic = ContainerTraffic(self._owners, limit)
        links, read_ended, told = self._table, self._table.ended.reader(), self.told
        metrics = MetricsServer(
            address,
            limit,
            lambda: take_snapshot(told.figures(), _read_links(links, read_ended), traffic),
        )
        self._at_close("Prometheus", metrics.close)
        metrics.open()
        return traffic, metrics

    def _open_snmp(self) -> SnmpAgent | None:
        if not self._config.snmp:
            return None
        from probe.snmp.process import SnmpAgent

        agent = SnmpAgent(self._config.snmp, self._config.pen, self._config.verbose)
        self._at_close("SNMP", agent.close)
        agent.open()
        return agent

    def _open_feed(self) -> Feed:
        feed = Feed(
            self._exporter,
            self._owners,
            self._users,
            self._config.privacy.command_lines,
            self._table.read,
            self._config.interface_interval,
            self._filter,
            self._table.ended.reader(),
        )
        self._at_close("open sockets", feed.close)
        return feed

    def _at_close(self, name: str, close: Callable[[], object]) -> None:
        self._closing.callback(close_quietly, name, close)

    def _container_name(self, container_id: str) -> str:
        return names_label(container_id, self._owners.find_names(container_id))


def _read_links(
    links: GuardedInterfaces, read_ended: Callable[[], Sequence[Interface]]
) -> list[Interface]:
    """Returns the links that have gone since the last call, then those that exist."""
    present = links.read()  # first: it may find that some are gone
    return [*read_ended(), *present]


def make_filter(config: RunConfig) -> FlowFilter:
    """Returns the filter of the configured rules. Raises ConfigError for an invalid rule."""
    include, exclude = (
        [parse_rule(text) for text in texts] for texts in (config.include, config.exclude)
    )
    return FlowFilter(include=include, exclude=exclude)


def _cache(config: RunConfig, source: Source) -> FlowCache:
    return FlowCache(
        max_entries=config.max_flows,
        active_timeout_ns=round(config.active_timeout * 1e9),
        idle_timeout_ns=round(config.idle_timeout * 1e9),
        host_netns=source.host_netns,
    )


def _kubernetes_settings(config: RunConfig) -> KubernetesSettings:
    return KubernetesSettings(
        config.kubernetes,
        config.kubernetes_node,
        config.kubernetes_labels,
        config.kubernetes_remote,
        config.kubernetes_cluster,
    )
