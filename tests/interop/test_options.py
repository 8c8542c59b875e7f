"""Tests what the real probe reports of itself, in both protocols and as tshark shows it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from probe.collector.message_source import collecting_process
from probe.ipfix.decode import Decoded
from probe.ipfix.elements import DOCUMENTATION_PEN
from probe.run.causes import NOTICES
from tests.support.interop.collectors import Capture, Collect
from tests.support.interop.workload import INCLUDE, Workload
from tests.support.lab.hosts import Host, run
from tests.support.programs import ROOT, Datagrams, Program, probing

_DEVICE, _ALIAS = "itveth0", "Büro, web-1"
Options = dict[str, Any]


class CollectOptions(Collect):
    """``sockflow collect`` with option records."""

    def command(self) -> list[object]:
        return [*super().command(), "--options"]

    def options(self, name: str) -> list[Options]:
        """Returns the option records with the element ``name``, in order."""
        return [one for one in self.records() if one.get("options") and name in one]

    def flow_count(self) -> int:
        return sum(1 for one in self.records() if not one.get("options"))


@dataclass
class Observed:
    collect: dict[int, CollectOptions]
    raw: dict[int, list[bytes]]
    capture: Capture
    probe: Program
    interfaces: dict[int, str]


@pytest.fixture(scope="module")
def device() -> Iterator[None]:
    """Makes a veth of this host with a description."""
    subprocess.run(["ip", "link", "del", _DEVICE], capture_output=True, check=False)
    run("ip", "link", "add", _DEVICE, "type", "veth", "peer", "name", "itveth1")
    try:
        run("ip", "link", "set", _DEVICE, "up", "alias", _ALIAS)
        yield
    finally:
        run("ip", "link", "del", _DEVICE)


@pytest.fixture(scope="module")
def observed(
    device: None, hosts: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("options")
    with contextlib.ExitStack() as stack:
        collect = {version: CollectOptions(folder, version=version) for version in (10, 9)}
        raw = {version: RawDatagrams(version) for version in (10, 9)}
        capture = Capture(folder, collect[10].port)
        for collector in (*collect.values(), capture):
            stack.enter_context(contextlib.closing(collector))
        for target in raw.values():
            stack.enter_context(contextlib.closing(target))
        found = [*(one.url for one in collect.values()), *(one.url for one in raw.values())]
        urls = [word for url in found for word in ("-e", url)]
        probe = stack.enter_context(
            probing(
                folder, *urls, "--template-refresh", 1, "--interval", 0.2, "--idle-timeout", 1,
                *INCLUDE, "--exclude", "port=7011",
            )
        )  # fmt: skip
        workload = Workload(hosts)
        workload.datagrams(20)
        time.sleep(2.5)
        workload.datagrams(20)
        interfaces = _interfaces()
        assert probe.stop() == 0, probe.errors
        for collector in (*collect.values(), capture):
            collector.finish()
        octets = {version: one.read() for version, one in raw.items()}
        yield Observed(collect, octets, capture, probe, interfaces)


class RawDatagrams(Datagrams):
    def __init__(self, version: int) -> None:
        super().__init__()
        scheme = "netflow9" if version == 9 else "ipfix"
        self.url = f"{scheme}://127.0.0.1:{self.port}?pace=0"


def _interfaces() -> dict[int, str]:
    """Returns {ifIndex: alias or name}, as iproute2 shows them."""
    links = json.loads(run("ip", "-j", "link").stdout)
    return {link["ifindex"]: link.get("ifalias", link["ifname"]) for link in links}


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, (pattern, text)
    return int(found[1])


@pytest.mark.parametrize("version", [10, 9])
def test_the_last_statistics_are_those_of_the_summary(observed: Observed, version: int) -> None:
    """They lack only their own messages of options, which follow all records."""
    collector, summary = observed.collect[version], observed.probe.errors
    rows = collector.options("exportedMessageTotalCount")
    assert len(rows) >= 3
    last = rows[-1]
    assert last["exportedFlowRecordTotalCount"] == collector.flow_count() > 0
    assert last["exportedFlowRecordTotalCount"] == number(r"in (\d+) records\n", summary)
    assert last["observedFlowTotalCount"] == number(r"sockflow: (\d+) flows", summary)
    assert last["ignoredPacketTotalCount"] == number(r"flow ends, (\d+) packets", summary) > 0
    for name in ("Flow", "Packet", "Octet"):
        assert last[f"notSent{name}TotalCount"] == 0


@pytest.mark.parametrize("version", [10, 9])
def test_statistics_count_the_messages_before_them(observed: Observed, version: int) -> None:
    """They are exact. The last row is made after all records have left and before its own burst."""
    messages = observed.raw[version]
    decoded = _decoded(messages)
    rows = [row for one in decoded for row in one.options if "exportedMessageTotalCount" in row]
    counts = [row["exportedMessageTotalCount"] for row in rows]
    assert counts == sorted(set(counts))
    before = max(at for at, one in enumerate(decoded) if one.flows) + 1
    burst = [name for one in decoded[before:] for row in one.options for name in row]
    assert "observationDomainName" in burst
    assert rows[-1]["exportedMessageTotalCount"] == before
    assert rows[-1]["exportedOctetTotalCount"] == sum(map(len, messages[:before]))


def _decoded(messages: list[bytes]) -> list[Decoded]:
    process = collecting_process(DOCUMENTATION_PEN)
    return [process.decode_message(message, "probe") for message in messages]


@pytest.mark.parametrize("version", [10, 9])
def test_every_cause_of_loss_has_a_row(observed: Observed, version: int) -> None:
    """Causes without losses have rows, too.

    The kernel's causes are the members of struct losses.
    """
    rows = observed.collect[version].options("lossCause")
    causes = {row["lossCause"]: row["lossTotalCount"] for row in rows}
    declared = (ROOT / "bpf" / "flow.h").read_text().partition("struct losses {")[2]
    kernel = set(re.findall(r"__u64 (\w+);", declared))
    assert len(kernel) >= 5
    assert set(causes) == (kernel - set(NOTICES)) | {"recursion_misses", "packets_after_end"}
    assert set(causes.values()) == {0}


@pytest.mark.parametrize("version", [10, 9])
def test_interfaces_have_the_names_that_ip_shows(observed: Observed, version: int) -> None:
    rows = observed.collect[version].options("interfaceDescription")
    found = {row["ingressInterface"]: row["interfaceDescription"] for row in rows}
    assert found == observed.interfaces
    (ours,) = {row["interfaceDescription"] for row in rows if row["interfaceName"] == _DEVICE}
    assert ours == _ALIAS


@pytest.mark.parametrize("version", [10, 9])
def test_the_exporter_says_who_it_is(observed: Observed, version: int) -> None:
    row = observed.collect[version].options("observationDomainName")[-1]
    assert row["observationDomainName"] == os.uname().nodename
    assert row["exporterIPv4Address"] == "127.0.0.1"
    assert row["exporterIPv6Address"] == "::"
    booted_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert abs(row["systemInitTimeMilliseconds"] / 1000 - booted_s) < 1


def test_tshark_shows_interface_names(observed: Observed) -> None:
    names = {
        name.rstrip("\0")
        for cells, _ in observed.capture.columns("cflow.if_name", "cflow.if_descr")
        for name in cells
    }
    assert _DEVICE in names
    assert observed.capture.malformed() == ""
