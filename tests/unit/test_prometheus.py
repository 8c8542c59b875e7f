"""Tests what a scrape reports, and that its size is bounded."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from probe.errors import ConfigError
from probe.export.transports.statistics import SendStatistics
from probe.figures import DestinationFigures, DurationFigures, FailedPart, Figures
from probe.flow.codes import EndReason
from probe.flow.owner import Container, ContainerNames, Owner, OwnerTable, Pod, Process
from probe.interfaces.interface import Counters, Interface
from probe.prometheus import server as server_module
from probe.prometheus.bounded import BoundedInterfaces
from probe.prometheus.durations import BOUNDS_S, Durations
from probe.prometheus.families import families
from probe.prometheus.server import MetricsServer, parse_address
from probe.prometheus.snapshot import Snapshot
from probe.prometheus.traffic import COLUMNS, OTHERS, ContainerLabels, ContainerTraffic
from probe.run.figures import destination_figures
from tests.support.records import flow_records

DASHBOARD = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "sockflow.json"
WEB = ContainerLabels("web", "shop-1", "shop")
LINKS = [
    Interface(1, "lo", oper_status=1, counters=Counters(in_octets=2**63)),
    Interface(7, "veth7", inner_name="eth0", container_id="c" * 64,
         names=ContainerNames("web", pod=Pod("shop-1", "shop")),
         counters=Counters(1, 2, 3, 4, 5, 6, 7, 8, 9)),
    Interface(8, 'odd"\\\n\ud800', alias='a "b"', container_id="d" * 64),
]  # fmt: skip
DESTINATION = DestinationFigures("ipfix://192.0.2.7:4739", 1, 2, 3, 4, 5, 6, 7, True)
FIGURES = Figures(
    source="ebpf", flows=10, records=11, packets=12, octets=13, excluded_packets=14,
    excluded_octets=15, cache_flows=16, cache_limit=17, waiting_records=18, agent_deaths=20,
    losses={"flow_ring_full": 19}, destinations=(DESTINATION,),
    ticks=DurationFigures((1, *[0] * 10, 2), 6.0),
    tick_delays=DurationFigures((0, 4, *[0] * 10), 0.008), failed_parts=(FailedPart("NAT", "x"),),
)  # fmt: skip
SNAPSHOT = Snapshot(FIGURES, LINKS, {WEB: tuple(range(1, 12)), ContainerLabels("db"): (0,) * 11}, 9)

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Scraped:
    def __init__(self, snapshot: Snapshot, limit: int = 100) -> None:
        self.snapshot, self.bounded = snapshot, BoundedInterfaces(limit)
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        return families(self.snapshot, self.bounded)

    def series(self) -> Series:
        return _series(generate_latest(self.registry).decode())


def _series(text: str) -> Series:
    """Returns the series as Prometheus' own parser reads them, and fails if one is there twice."""
    found: Series = {}
    for family in parse_text(text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def one(series: Series, name: str, **labels: str) -> float:
    (value,) = (
        value for (own, has), value in series.items() if own == name and labels.items() <= {*has}
    )
    return value


# -- the text -------------------------------------------------------------------------------------
def test_counters_of_an_interface_and_who_is_behind_it() -> None:
    series = Scraped(SNAPSHOT).series()
    labels = {"interface": "veth7", "container": "web", "pod": "shop-1", "namespace": "shop"}
    found = {
        name.removeprefix("sockflow_interface_"): value
        for (name, has), value in series.items()
        if dict(has) == labels
    }
    assert found == {
        "receive_bytes_total": 1, "receive_packets_total": 2, "receive_multicast_packets_total": 3,
        "receive_errors_total": 4, "receive_drops_total": 5, "transmit_bytes_total": 6,
        "transmit_packets_total": 7, "transmit_errors_total": 8, "transmit_drops_total": 9,
        "up": 0,
    }  # fmt: skip
    assert one(series, "sockflow_interface_receive_bytes_total", interface="lo") == 2**63
    info = next(dict(has) for (name, has), _ in series.items() if ("ifindex", "7") in has)
    assert (info["interface"], info["inner"], info["container_id"]) == ("veth7", "eth0", "c" * 64)


def test_labels_are_escaped_and_containers_without_names_have_ids() -> None:
    series = Scraped(SNAPSHOT).series()
    odd = one(series, "sockflow_interface_up", interface='odd"\\\n?', container="d" * 12)
    assert odd == 0


def test_containers_and_the_probe() -> None:
    series = Scraped(SNAPSHOT).series()
    for number, name in enumerate(
        ("sent_bytes_total", "sent_packets_total", "received_bytes_total", "received_packets_total",
         "retransmitted_segments_total", "lost_segments_total"), 1,
    ):  # fmt: skip
        assert one(series, f"sockflow_container_{name}", container="web", pod="shop-1") == number
    assert one(series, "sockflow_container_rtt_seconds_sum", container="web") == 7e-6
    assert one(series, "sockflow_container_rtt_seconds_count", container="web") == 8
    flows = [one(series, "sockflow_container_flows_total", container="web", role=role)
             for role in ("client", "server", "unknown")]  # fmt: skip
    assert flows == [9, 10, 11]
    where = {"destination": "ipfix://192.0.2.7:4739"}
    assert one(series, "sockflow_destination_dropped_records_total", **where) == 5
    assert one(series, "sockflow_destination_queue_bytes", **where) == 7
    assert one(series, "sockflow_lost_total", cause="flow_ring_full") == 19
    assert one(series, "sockflow_collector_info", collector="ebpf") == 1
    assert one(series, "sockflow_cache_flows") == 16
    assert one(series, "sockflow_tick_seconds_bucket", le="0.001") == 1
    assert one(series, "sockflow_tick_seconds_bucket", le="2.5") == 1
    assert one(series, "sockflow_tick_seconds_bucket", le="+Inf") == 3
    assert one(series, "sockflow_tick_seconds_sum") == 6
    assert one(series, "sockflow_tick_delay_seconds_bucket", le="0.001") == 0
    assert one(series, "sockflow_tick_delay_seconds_bucket", le="0.0025") == 4
    assert one(series, "sockflow_snmp_agent_deaths_total") == 20


def test_openmetrics_accepts_it_too() -> None:
    """The strict parser of OpenMetrics checks names, suffixes, types, order and buckets."""
    text = generate_openmetrics(Scraped(SNAPSHOT).registry).decode()  # type: ignore[no-untyped-call]
    found = {family.name: family.type for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]
    assert found["sockflow_interface_receive_bytes"] == "counter"
    assert found["sockflow_tick_seconds"] == "histogram"


def test_every_metric_has_a_help_that_says_something() -> None:
    for family in families(SNAPSHOT, BoundedInterfaces(9)):
        assert family.name.startswith("sockflow_")
        assert len(family.documentation) > 7
        if "_receive_bytes" in family.name:
            assert "what its container sends" in family.documentation


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    there = {name for name, _ in Scraped(SNAPSHOT).series()} | {"process_cpu_seconds_total"}
    board = json.loads(DASHBOARD.read_text())
    asked = [one["expr"] for panel in board["panels"] for one in panel.get("targets", ())]
    asked += [
        one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"
    ]
    names = {name for text in asked for name in re.findall(r"\b(?:sockflow|process)_\w+", text)}
    assert len(asked) >= 20
    assert names <= there, names - there
    titles = " ".join(panel["title"] for panel in board["panels"])
    for word in ("Sent by container", "Round-trip", "sent again", "Lost"):
        assert word in titles
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


# -- bounds ---------------------------------------------------------------------------------------
def link(index: int, octets: int, since_s: float = 0.0) -> Interface:
    return Interface(index, f"v{index}", since_s=since_s, counters=Counters(in_octets=octets))


def test_interfaces_beyond_the_limit_are_one_series_that_never_falls() -> None:
    bounded = BoundedInterfaces(2)
    assert bounded.select([link(1, 5), link(2, 5), link(3, 50), link(4, 60)])[1:] == [link(2, 5)]
    assert (bounded.folded, bounded.others.in_octets) == (2, 0)
    bounded.select([link(1, 5), link(2, 5), link(3, 53), link(4, 67)])
    assert bounded.others.in_octets == 10
    bounded.select([link(1, 5), link(2, 5), link(4, 68)])
    assert (bounded.folded, bounded.others.in_octets) == (1, 11)
    assert [one.index for one in bounded.select([link(2, 6), link(4, 70)])] == [2, 4]
    assert (bounded.folded, bounded.others.in_octets) == (0, 11)


def test_an_index_that_returns_for_another_device_is_not_the_old_one() -> None:
    bounded = BoundedInterfaces(0)
    bounded.select([link(3, 50)])
    bounded.select([link(3, 70, since_s=9.0)])
    bounded.select([link(3, 71, since_s=9.0)])
    assert bounded.others.in_octets == 1


def gone(index: int, octets: int) -> Interface:
    return replace(link(index, octets, since_s=5.0), is_gone=True)


def test_a_link_that_is_gone_is_shown_once_more_and_then_summed_up() -> None:
    bounded = BoundedInterfaces(9)
    assert bounded.select([link(1, 5)]) == [link(1, 5)]
    assert bounded.select([gone(1, 8), gone(2, 70)]) == [gone(1, 8), gone(2, 70)]
    assert (bounded.ended.in_octets, bounded.ended_links) == (0, 0), "they are shown by themselves"
    bounded.select([])
    assert (bounded.ended.in_octets, bounded.ended_links) == (78, 2)
    bounded.select([])
    assert (bounded.ended.in_octets, bounded.ended_links) == (78, 2)


def test_a_link_that_came_and_went_between_scrapes_is_among_the_others() -> None:
    bounded = BoundedInterfaces(0)
    bounded.select([link(1, 5)])
    bounded.select([link(1, 6), gone(2, 70)])
    assert (bounded.folded, bounded.others.in_octets) == (1, 71)
    bounded.select([gone(1, 9)])
    assert (bounded.folded, bounded.ended_links) == (0, 0)


def test_folded_interfaces_are_counted_and_shown() -> None:
    scraped = Scraped(SNAPSHOT, limit=1)
    scraped.series()
    more = [replace(one, counters=Counters(10**6)) for one in LINKS[1:]]
    scraped.snapshot = replace(SNAPSHOT, interfaces=[LINKS[0], *more])
    series = scraped.series()
    assert one(series, "sockflow_interfaces_folded") == 2
    folded = one(series, "sockflow_interface_receive_bytes_total", interface=OTHERS.container)
    assert folded == 2 * 10**6 - 1
    up = [has for name, has in series if name == "sockflow_interface_up"]
    assert len(up) == 1


# -- containers -----------------------------------------------------------------------------------
@pytest.fixture
def owners() -> OwnerTable:
    table = OwnerTable()
    table.add(Owner(container=Container("c" * 64, name="web"), pod=Pod("shop-1", "shop")))
    table.add(Owner(container=Container("e" * 64, name="web"), pod=Pod("shop-1", "shop")))
    table.add(Owner(container=Container("d" * 64)))
    table.add(Owner(Process(name="sshd")))
    return table


def sums(traffic: ContainerTraffic, labels: ContainerLabels) -> dict[str, int]:
    return dict(zip(COLUMNS, traffic.sums()[labels], strict=True))


def test_sums_by_container(owners: OwnerTable) -> None:
    """The sums of a restarted container go on. Processes of the host are not counted."""
    records = flow_records(4)
    records["source_owner"], records["destination_owner"] = (1, 2, 3, 4), (3, 3, 4, 4)
    records["flow_id"] = (1, 2, 3, 4)
    records["rtt_us"] = (100, 0, 50, 9)
    records["end_reason"] = EndReason.END_OF_FLOW
    records["biflow_direction"] = (1, 2, 0, 1)
    records["retransmitted"], records["lost"] = (1, 2, 4, 8), (3, 0, 0, 0)
    traffic = ContainerTraffic(owners, 8)
    traffic.count(records)
    traffic.count(records[:0])
    assert sums(traffic, WEB) == {
        "sent_octets": 2001, "sent_packets": 3, "received_octets": 0, "received_packets": 0,
        "retransmitted": 3, "lost": 3, "rtt_us": 100, "rtt_records": 1, "client_flows": 1,
        "server_flows": 1, "other_flows": 0,
    }  # fmt: skip
    other = sums(traffic, ContainerLabels("d" * 12))
    assert (other["sent_octets"], other["received_octets"]) == (1002, 2001)
    flows = other["client_flows"], other["server_flows"], other["other_flows"]
    assert flows == (1, 1, 1)
    assert len(traffic.sums()) == 2


def test_what_a_proxy_passes_on_is_counted_at_the_container_only(owners: OwnerTable) -> None:
    """Otherwise its traffic would be counted twice under the same name."""
    proxy = owners.add(Owner(container=Container("c" * 64, name="web", is_proxy=True)))
    records = flow_records(2)
    records["source_owner"], records["destination_owner"] = (proxy, 1), (1, proxy)
    traffic = ContainerTraffic(owners, 8)
    traffic.count(records)
    assert list(traffic.sums()) == [WEB]
    found = sums(traffic, WEB)
    assert (found["sent_octets"], found["received_octets"]) == (1001, 1000)


def test_a_flow_is_counted_once_and_when_it_ends(owners: OwnerTable) -> None:
    records = flow_records(4)
    records["source_owner"], records["destination_owner"] = (1, 0, 1, 0), (0, 1, 0, 1)
    records["flow_id"], records["biflow_direction"] = (1, 1, 2, 2), (1, 2, 1, 2)
    ends = EndReason.IDLE_TIMEOUT, EndReason.ACTIVE_TIMEOUT
    records["end_reason"] = (ends[0], ends[0], ends[1], ends[1])
    traffic = ContainerTraffic(owners, 8)
    traffic.count(records)
    assert sums(traffic, WEB)["client_flows"] == 1
    assert sums(traffic, WEB)["server_flows"] == 0


def test_containers_beyond_the_limit_are_folded_until_others_have_been_silent(
    owners: OwnerTable,
) -> None:
    now = 0.0
    traffic = ContainerTraffic(owners, 1, lambda: now)
    records = flow_records(2)
    records["source_owner"], records["destination_owner"] = (1, 3), 0
    traffic.count(records)
    assert set(traffic.sums()) == {WEB, OTHERS}
    assert (sums(traffic, OTHERS)["sent_octets"], traffic.folded) == (1001, 1)
    now = 3601.0
    traffic.count(records[1:])
    found = traffic.sums()
    assert set(found) == {ContainerLabels("d" * 12), OTHERS}
    assert dict(zip(COLUMNS, found[OTHERS], strict=True))["sent_octets"] == 1001
    assert sums(traffic, ContainerLabels("d" * 12))["sent_octets"] == 1001


def test_sums_are_exact_where_they_are_large(owners: OwnerTable) -> None:
    records = flow_records(1)
    records["source_owner"], records["octets"] = 1, 2**52 + 1
    traffic = ContainerTraffic(owners, 1)
    for _ in range(4):
        traffic.count(records)
    assert sums(traffic, WEB)["sent_octets"] == 4 * (2**52 + 1)


def test_durations_are_in_the_bucket_whose_bound_they_do_not_exceed() -> None:
    found = Durations()
    for seconds in (0.0, BOUNDS_S[0], BOUNDS_S[0] + 1e-9, 99.0):
        found.observe(seconds)
    assert found.counts == [2, 1, *[0] * (len(BOUNDS_S) - 2), 1]
    assert found.sum_s == pytest.approx(99.002)


def test_destinations_of_the_same_name_are_told_apart() -> None:
    class Same:
        name = "ipfix://h:1"
        backlog = 0
        is_down = False
        statistics = SendStatistics()

        def summary(self) -> str:
            return ""

    found = list(destination_figures([Same(), Same(), Same()]))  # type: ignore[list-item]
    assert [one.name for one in found] == ["ipfix://h:1", "ipfix://h:1#2", "ipfix://h:1#3"]


# -- over HTTP ------------------------------------------------------------------------------------
@pytest.fixture
def served() -> Iterator[MetricsServer]:
    """Yields a server whose ``answer`` is called by a thread, as by the loop."""
    found = MetricsServer("127.0.0.1:0", 100, lambda: SNAPSHOT)
    found.open()
    ended = threading.Event()

    def loop() -> None:
        import select

        while not ended.is_set():
            if select.select([found], [], [], 0.05)[0]:
                found.answer()

    thread = threading.Thread(target=loop)
    thread.start()
    yield found
    ended.set()
    thread.join()
    found.close()


def get(server: MetricsServer) -> str:
    url = f"http://127.0.0.1:{server.port}/metrics"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return str(answer.read().decode())


def test_a_scrape(served: MetricsServer) -> None:
    series = _series(get(served))
    assert one(series, "sockflow_records_total") == 11
    assert one(series, "process_resident_memory_bytes") > 1e6


def test_many_scrapes_at_once(served: MetricsServer) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(get(served))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert all("sockflow_records_total 11" in text for text in found)


@pytest.mark.parametrize("words", [b"", b"GET /metrics HTTP/1.1\r\nHost: "])
def test_clients_that_are_slow_to_ask_hold_up_nobody(served: MetricsServer, words: bytes) -> None:
    """Slow clients are dropped. Eight of them used to block all scrapes."""
    with contextlib.ExitStack() as stack:
        slow = []
        for _ in range(100):
            one = socket.create_connection(("127.0.0.1", served.port), 60)
            slow.append(stack.enter_context(one))
            one.sendall(words)
        for _ in range(5):
            assert "sockflow_records_total 11" in get(served)
        assert slow[0].recv(1) == b""  # the first one was dropped


def test_a_client_that_drips_is_ended_before_one_that_asked(served: MetricsServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(server_module._CLIENTS):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", served.port), 60))
            one.sendall(b"G")
        assert "sockflow_records_total 11" in get(served)


def test_one_address_leaves_room_for_others(served: MetricsServer) -> None:
    """One address cannot take all places.

    Sixteen clients that asked endlessly once blocked all scrapers.
    """
    clients = served._server._clients  # type: ignore[union-attr]
    with contextlib.ExitStack() as stack, served._scraping:  # the lock delays all answers
        for number in range(1, server_module._CLIENTS + 1):
            one = socket.create_connection(
                ("127.0.0.1", served.port), 60, source_address=("127.0.0.2", 0)
            )
            stack.enter_context(one).sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            if number > server_module._CLIENTS_OF_ONE:
                with contextlib.suppress(ConnectionResetError):
                    assert one.recv(1) == b""
            else:
                wait_until(lambda: count_asked(served) >= number)  # noqa: B023
        assert len(clients) == server_module._CLIENTS_OF_ONE
    assert "sockflow_records_total 11" in get(served)


def count_asked(server: MetricsServer) -> int:
    clients = server._server._clients  # type: ignore[union-attr]
    return sum(client.has_asked for client in list(clients.values()))


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_loop_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_ANSWER_S", 0.1)
    server = MetricsServer("127.0.0.1:0", 100, lambda: SNAPSHOT)
    server.open()
    try:
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(server)
        assert refused.value.code == 503
        refused.value.close()
    finally:
        server.close()


def test_closing_does_not_wait_for_clients(served: MetricsServer) -> None:
    with socket.create_connection(("127.0.0.1", served.port)):
        get(served)
        started = time.monotonic()
        served._server.shutdown()  # type: ignore[union-attr]
        assert time.monotonic() - started < server_module._CLIENT_S


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("9709", ("127.0.0.1", 9709)), ("0.0.0.0:1", ("0.0.0.0", 1)), ("[::1]:2", ("::1", 2)),
     ("host:3", ("host", 3))],
)  # fmt: skip
def test_addresses(text: str, wanted: tuple[str, int]) -> None:
    assert parse_address(text) == wanted


@pytest.mark.parametrize("text", ["", "host", ":1", "host:x", "host:70000", "a:1/metrics", "70000"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected HOST:PORT, as 127.0.0.1:9709"):
        parse_address(text)


def test_a_port_that_is_taken_and_a_package_that_is_missing(
    served: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = MetricsServer(f"127.0.0.1:{served.port}", 1, lambda: SNAPSHOT)
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1 port {served.port}"):
        taken.open()
    taken.close()
    missing = MetricsServer("127.0.0.1:0", 1, lambda: SNAPSHOT)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'sockflow\[prometheus\]'"):
        missing.open()
    missing.close()
