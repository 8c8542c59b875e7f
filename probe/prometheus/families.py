"""Makes families of metrics from a snapshot, with names and units as Prometheus wants them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from probe import __version__
from probe.figures import DestinationFigures, Figures
from probe.flow.owner import Container, ContainerNames
from probe.interfaces.interface import Interface
from probe.prometheus.bounded import BoundedInterfaces
from probe.prometheus.durations import BOUNDS_S
from probe.prometheus.snapshot import Snapshot
from probe.prometheus.texts import (
    CONTAINERS,
    DESTINATIONS,
    DURATIONS,
    ENDED,
    INTERFACES,
    TOTALS,
)
from probe.prometheus.traffic import COLUMNS, OTHERS, ContainerLabels, container_labels

_COLUMN = {name: number for number, name in enumerate(COLUMNS)}
_ROLES = (("client", "client_flows"), ("server", "server_flows"), ("unknown", "other_flows"))
_OPER_UP = 1
_MICRO = 1e-6

Labels = dict[str, str]


def families(snapshot: Snapshot, bounded: BoundedInterfaces) -> Iterator[Metric]:
    """Yields all families. ``bounded`` remembers which interfaces have their own series."""
    yield from _interfaces(snapshot.interfaces, bounded)
    yield from _containers(snapshot)
    yield from _destinations(snapshot.figures.destinations)
    yield from _health(snapshot.figures)


def _interfaces(links: Sequence[Interface], bounded: BoundedInterfaces) -> Iterator[Metric]:
    chosen = list({link.name: link for link in bounded.select(links)}.values())
    labelled = [({"interface": text(link.name), **_of_container(link)}, link) for link in chosen]
    others = {"interface": OTHERS.container, **_labels(ContainerLabels())}
    for name, (column, help_) in INTERFACES.items():
        found = [(labels, getattr(link.counters, column)) for labels, link in labelled]
        if bounded.folded or getattr(bounded.others, column):
            found.append((others, getattr(bounded.others, column)))
        yield _counter(name, help_, found)
    for name, (column, help_) in ENDED.items():
        yield _counter(name, help_, [({}, getattr(bounded.ended, column))])
    yield _counter(
        "sockflow_ended_interfaces",
        "Interfaces that are gone, in the sums of the ended ones.",
        [({}, bounded.ended_links)],
    )
    up = [(labels, float(link.oper_status == _OPER_UP)) for labels, link in labelled]
    yield _gauge("sockflow_interface_up", "1 where the interface is operationally up.", up)
    info = InfoMetricFamily(
        "sockflow_interface",
        "ifIndex (as ingressInterface and egressInterface of flow records), and what the interface "
        "is called inside of the container.",
    )
    info.samples = [
        Sample("sockflow_interface_info", {"interface": labels["interface"], **_details(link)}, 1.0)
        for labels, link in labelled
    ]
    yield info
    yield _gauge(
        "sockflow_interfaces_folded",
        f"Interfaces beyond --prometheus-limit, summed up as interface {OTHERS.container!r}.",
        [({}, bounded.folded)],
    )


def _details(link: Interface) -> Labels:
    return {
        "ifindex": str(link.index),
        "kind": link.kind,
        "alias": text(link.alias),
        "inner": text(link.inner_name),
        "container_id": link.container_id,
    }


def _of_container(link: Interface) -> Labels:
    names = link.names or ContainerNames()
    return _labels(container_labels(Container(link.container_id, name=names.name), names.pod))


def _containers(snapshot: Snapshot) -> Iterator[Metric]:
    labelled = [(_labels(labels), sums) for labels, sums in snapshot.containers.items()]
    for name, (column, help_) in CONTAINERS.items():
        at = _COLUMN[column]
        yield _counter(name, help_, [(labels, sums[at]) for labels, sums in labelled])
    yield _counter(
        "sockflow_container_flows",
        "Flows that ended, by the container's role in them; counted with the last record of each.",
        [
            ({**labels, "role": role}, sums[_COLUMN[column]])
            for labels, sums in labelled
            for role, column in _ROLES
        ],
    )
    rtt = SummaryMetricFamily(
        "sockflow_container_rtt_seconds",
        "Smoothed round-trip times that the container's TCP sockets had when their flows were "
        "reported: rate of _sum by rate of _count is the average.",
    )
    for labels, sums in labelled:
        rtt.samples += [
            Sample(f"{rtt.name}_count", labels, sums[_COLUMN["rtt_records"]]),
            Sample(f"{rtt.name}_sum", labels, sums[_COLUMN["rtt_us"]] * _MICRO),
        ]
    yield rtt
    yield _counter(
        "sockflow_container_folded_records",
        "Flow records of containers beyond --prometheus-limit, which are summed up as container "
        f"{OTHERS.container!r}.",
        [({}, snapshot.folded_records)],
    )


def _destinations(destinations: Sequence[DestinationFigures]) -> Iterator[Metric]:
    labelled = [({"destination": text(one.name)}, one) for one in destinations]
    for name, (column, help_) in DESTINATIONS.items():
        found = [(labels, getattr(one, column)) for labels, one in labelled]
        yield _counter(name, help_, found)
    yield _gauge(
        "sockflow_destination_queue_bytes",
        "Octets that wait to be sent.",
        [(labels, one.queued_octets) for labels, one in labelled],
    )
    yield _gauge(
        "sockflow_destination_up",
        "0 while the destination is known to be unreachable.",
        [(labels, float(one.is_up)) for labels, one in labelled],
    )


def _health(figures: Figures) -> Iterator[Metric]:
    for name, (column, help_) in TOTALS.items():
        yield _counter(name, help_, [({}, getattr(figures, column))])
    yield _counter(
        "sockflow_lost",
        "What was lost before it became a flow record, by cause.",
        [({"cause": cause}, count) for cause, count in figures.losses.items()],
    )
    yield _counter(
        "sockflow_notices",
        "What came late or with less detail, and was not lost, by cause.",
        [({"cause": cause}, count) for cause, count in figures.notices.items()],
    )
    yield _gauge(
        "sockflow_failed_parts",
        "Parts of the probe that an error of their own has ended: destinations, runtimes, others.",
        [({}, len(figures.failed_parts))],
    )
    failed = dict.fromkeys(part.name for part in figures.failed_parts)
    yield _gauge(
        "sockflow_failed_part",
        "1 for each part that an error of its own has ended.",
        [({"part": text(name)}, 1.0) for name in failed],
    )
    for name, help_, value in (
        ("sockflow_cache_flows", "Flows in the cache.", figures.cache_flows),
        ("sockflow_cache_limit_flows", "The most that the cache holds.", figures.cache_limit),
        ("sockflow_waiting_records", "Flow records that wait for the name of a container.",
         figures.waiting_records),
    ):  # fmt: skip
        yield _gauge(name, help_, [({}, value)])
    yield InfoMetricFamily(
        "sockflow_collector", "The source of flows.", value={"collector": figures.source}
    )
    yield InfoMetricFamily("sockflow_build", "Version.", value={"version": __version__})
    for name, (column, help_) in DURATIONS.items():
        took = getattr(figures, column)
        buckets = _cumulated(took.counts)
        yield HistogramMetricFamily(name, help_, buckets=buckets, sum_value=took.sum_s)


def _cumulated(counts: Sequence[int]) -> list[tuple[str, float]]:
    found, total = [], 0
    for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found


def _counter(name: str, help_: str, values: Iterable[tuple[Labels, float]]) -> Metric:
    family = CounterMetricFamily(name, help_)
    family.samples = [Sample(f"{name}_total", labels, value) for labels, value in values]
    return family


def _gauge(name: str, help_: str, values: Iterable[tuple[Mapping[str, str], float]]) -> Metric:
    family = GaugeMetricFamily(name, help_)
    family.samples = [Sample(name, dict(labels), value) for labels, value in values]
    return family


def _labels(labels: ContainerLabels) -> Labels:
    return {
        "container": text(labels.container),
        "pod": text(labels.pod),
        "namespace": text(labels.namespace),
    }


def text(value: str) -> str:
    """Returns ``value`` without lone surrogates, which a runtime may send but UTF-8 cannot hold."""
    return value.encode("utf-8", "replace").decode()
