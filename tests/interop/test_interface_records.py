"""Tests interface counters as records in both protocols, and Prometheus' metrics meanwhile."""

from __future__ import annotations

import contextlib
import json
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from probe.ipfix.elements import DOCUMENTATION_PEN
from tests.support.interop.collectors import Capture, Collect
from tests.support.interop.workload import INCLUDE, Workload
from tests.support.lab.hosts import Host, run
from tests.support.programs import SOCKFLOW, Program, free_port, probing, wait_until
from tests.support.reader import ON_A_BUSY_MACHINE_S, StrictReader
from tests.support.reader.capture import read_capture

_DEVICE = "itveth2"
_NAMES = {
    "layer2OctetTotalCount": ("rx", "bytes"),
    "packetTotalCount": ("rx", "packets"),
    "interfaceInErrorTotalCount": ("rx", "errors"),
    "droppedPacketTotalCount": ("rx", "dropped"),
    "interfaceOutOctetTotalCount": ("tx", "bytes"),
    "interfaceOutPacketTotalCount": ("tx", "packets"),
    "interfaceOutErrorTotalCount": ("tx", "errors"),
    "interfaceOutDropTotalCount": ("tx", "dropped"),
}
_METRICS = {
    "receive_bytes": ("rx", "bytes"), "receive_packets": ("rx", "packets"),
    "receive_errors": ("rx", "errors"), "receive_drops": ("rx", "dropped"),
    "transmit_bytes": ("tx", "bytes"), "transmit_packets": ("tx", "packets"),
    "transmit_errors": ("tx", "errors"), "transmit_drops": ("tx", "dropped"),
}  # fmt: skip


class CollectOptions(Collect):
    def command(self) -> list[object]:
        return [*super().command(), "--options"]


@dataclass
class Observed:
    records: dict[int, list[dict[str, Any]]]
    capture: Capture
    scraped: str
    probe: Program
    device: dict[str, Any]


@pytest.fixture(scope="module")
def device() -> Iterator[None]:
    """Makes a pair with both ends here, over which only this test sends."""
    with contextlib.suppress(Exception):
        run("ip", "link", "del", _DEVICE)
    run("ip", "link", "add", _DEVICE, "type", "veth", "peer", "name", "itveth3")
    try:
        for name in (_DEVICE, "itveth3"):
            run("sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")
            run("ip", "link", "set", name, "up", "arp", "off")
        yield
    finally:
        run("ip", "link", "del", _DEVICE)


def _send(name: str, count: int, size: int) -> None:
    """Sends Ethernet frames of an experimental protocol over one end of the pair."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((name, 0))
        for _ in range(count):
            raw.send(b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x88\xb5" + bytes(size - 14))


@pytest.fixture(scope="module")
def observed(
    device: None, hosts: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("interfaces")
    _send(_DEVICE, 5, 100)
    _send("itveth3", 3, 200)
    with contextlib.ExitStack() as stack:
        collect = {version: CollectOptions(folder, version=version) for version in (10, 9)}
        capture = Capture(folder, collect[10].port)
        for collector in (*collect.values(), capture):
            stack.enter_context(contextlib.closing(collector))
        port = free_port(socket.SOCK_STREAM)
        urls = [word for one in collect.values() for word in ("-e", one.url)]
        probe = stack.enter_context(
            probing(folder, *urls, "--prometheus", port, "--interface-interval", 1,
                    "--interval", 0.2, "--idle-timeout", 1, *INCLUDE)
        )  # fmt: skip
        Workload(hosts).datagrams(20)
        wait_until(lambda: _metric(_scrape(port), "sockflow_records_total") > 0, "a flow record")
        scraped = _scrape(port)
        shown = json.loads(run("ip", "-s", "-j", "link", "show", _DEVICE).stdout)[0]
        assert probe.stop() == 0, probe.errors
        for collector in (*collect.values(), capture):
            collector.finish()
        records = {version: one.records() for version, one in collect.items()}
        yield Observed(records, capture, scraped, probe, shown)


def _scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=180) as answer:
        return str(answer.read().decode())


def _metric(text: str, name: str, **labels: str) -> float:
    (value,) = (
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
    return float(value)


@pytest.mark.parametrize("version", [10, 9])
def test_counters_are_those_of_ip(observed: Observed, version: int) -> None:
    rows = [one for one in observed.records[version] if one.get("interfaceName") == _DEVICE]
    counted = [one for one in rows if "interfaceOutOctetTotalCount" in one]
    assert len(counted) >= 2, "at the beginning and at the end"
    stats = observed.device["stats64"]
    for row in (counted[0], counted[-1]):
        assert {name: row[name] for name in _NAMES} == {
            name: stats[way][key] for name, (way, key) in _NAMES.items()
        }
        assert row["ingressInterface"] == observed.device["ifindex"]
        assert row["interfaceContainerName"] == ""
    assert (counted[0]["packetTotalCount"], counted[0]["layer2OctetTotalCount"]) == (3, 600)
    assert counted[0]["interfaceOutPacketTotalCount"] == 5


def test_no_rule_is_broken(observed: Observed) -> None:
    """Two oddities are meant.

    Strings of options are padded, for nfdump. Type records have two strings of variable length,
    for libfixbuf; the profile for nfdump has no type records.
    """
    reader = StrictReader(skew_s=ON_A_BUSY_MACHINE_S)
    read_capture(reader, observed.capture.file, observed.capture.port)
    reader.finish()
    assert reader.broken(but=["value.nul", "advice.strings"]) == []
    names = {name for values in reader.options() for name in values}
    iana = {name for name in _NAMES if not name.startswith("interface")}
    assert names >= iana | {f"{DOCUMENTATION_PEN}/{number}" for number in range(40, 46)}


def test_a_scrape_has_the_same_counters(observed: Observed) -> None:
    stats = observed.device["stats64"]
    for name, (way, key) in _METRICS.items():
        metric = f"sockflow_interface_{name}_total"
        assert _metric(observed.scraped, metric, interface=_DEVICE) == stats[way][key]
    index = _metric(observed.scraped, "sockflow_interface_info", interface=_DEVICE,
                    ifindex=str(observed.device["ifindex"]))  # fmt: skip
    assert index == 1


def test_a_scrape_tells_how_the_probe_does(observed: Observed) -> None:
    assert _metric(observed.scraped, "sockflow_collector_info", collector="ebpf") == 1
    assert _metric(observed.scraped, "sockflow_flows_observed_total") >= 1
    assert _metric(observed.scraped, "sockflow_packets_total") >= 20
    assert _metric(observed.scraped, "sockflow_tick_seconds_count") >= 2
    assert _metric(observed.scraped, "sockflow_lost_total", cause="flow_ring_full") == 0


def test_an_address_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = (*SOCKFLOW, "run", "-e", "ipfix://127.0.0.1:9", "--prometheus", port)
        program = Program((*command, "--duration", 1), tmp_path, "refused")
        assert program.process.wait(120) == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in program.errors
    assert len(program.errors.splitlines()) == 1
