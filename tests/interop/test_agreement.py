"""Tests that all collectors show the same flows in one run of the probe with real traffic.

The probe exports to each as docs/collectors/README.md says, in its protocol and profile.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.interop.collectors import (
    Capture,
    Collect,
    FileOfRun,
    Nfacctd,
    Nfcapd,
    StreamCollect,
)
from tests.support.interop.flows import TCP, UDP, Flow, assert_near, sent_by
from tests.support.interop.readers import library_flows, python_ipfix_flows, scapy_flows
from tests.support.interop.workload import INCLUDE, Workload
from tests.support.lab.hosts import Host
from tests.support.programs import Datagrams, export_url, probing


class Raw(Datagrams):
    """Receives datagrams for libraries to read."""

    def __init__(self, version: int, profile: str) -> None:
        super().__init__()
        self.url = f"{export_url(self.port, version=version)}&profile={profile}"

    def finish(self) -> None:
        self.read()


@dataclass
class Observed:
    """What each collector reports of the same minute."""

    workload: Workload
    collectors: dict[str, Nfcapd | Nfacctd | Collect | Capture | Raw]
    summary: str

    def __getitem__(self, name: str) -> list[Flow]:
        collector = self.collectors[_SOURCES.get(name, name)]
        if isinstance(collector, Raw):
            return _READERS[name](collector.received)
        return collector.flows()


_READERS = {"scapy v9": scapy_flows, "netflow v9": library_flows, "ipfix": python_ipfix_flows}
_SOURCES = {"scapy v9": "raw v9", "netflow v9": "raw v9", "ipfix": "raw"}
COLLECTORS = [
    "nfcapd", "nfcapd v9", "nfacctd", "nfacctd v9", "collect", "collect v9", "collect tcp",
    "file", "tshark", "tshark v9", "tshark file", *_READERS,
]  # fmt: skip


@pytest.fixture(scope="module")
def observed(
    hosts: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("agreement")
    with contextlib.ExitStack() as stack:
        file = FileOfRun(folder)
        targets: dict[str, Nfcapd | Nfacctd | Collect | Raw] = {
            "nfcapd": Nfcapd(folder),
            "nfcapd v9": Nfcapd(folder, version=9),
            "nfacctd": Nfacctd(folder),
            "nfacctd v9": Nfacctd(folder, version=9),
            "collect": Collect(folder),
            "collect v9": Collect(folder, version=9),
            "collect tcp": StreamCollect(folder),
            "file": file,
            "raw": Raw(10, "iana"),
            "raw v9": Raw(9, "nfdump"),
        }
        for target in targets.values():
            stack.enter_context(contextlib.closing(target))
        captures = {
            "tshark": Capture(folder, targets["collect"].port),
            "tshark v9": Capture(folder, targets["collect v9"].port, 9),
        }
        for capture in captures.values():
            stack.enter_context(contextlib.closing(capture))
        options = [word for target in targets.values() for word in ("-e", target.url)]
        probe = stack.enter_context(probing(folder, *options, *INCLUDE))
        workload = Workload(hosts)
        workload.play(300)
        assert probe.stop() == 0, probe.errors
        everything = {**targets, **captures, "tshark file": file.as_capture()}
        for collector in everything.values():
            collector.finish()
        yield Observed(workload, everything, probe.errors)


@pytest.mark.parametrize("collector", COLLECTORS)
def test_each_direction_of_each_flow_is_there_once(observed: Observed, collector: str) -> None:
    """Both ends are on this host. Without joining, a connection would have four records."""
    flows = observed[collector]
    keys = Counter(one.key for one in flows)
    assert set(keys.values()) == {1}
    assert {one.reverse for one in flows} == set(keys)
    of = Counter(one.protocol for one in flows)
    assert of == {TCP: 2 * observed.workload.tcp, UDP: 2 * observed.workload.udp}


@pytest.mark.parametrize("way", ["client to server", "server to client"])
def test_packets_and_octets_are_those_of_nft(observed: Observed, way: str) -> None:
    """UDP is exact.

    TCP is within half a percent, including short connections with every kind of close.
    """
    workload = observed.workload
    sender = workload.here if way == "client to server" else workload.there
    flows = observed["collect"]
    assert sent_by(flows, sender, UDP) == workload.truth(sender, "udp")
    assert_near(sent_by(flows, sender, TCP), workload.truth(sender, "tcp"), 0.005)


@pytest.mark.parametrize("collector", COLLECTORS)
def test_collectors_agree_on_every_record(observed: Observed, collector: str) -> None:
    """They agree to the packet, octet and millisecond, in both protocols and on all transports."""
    flows, ours = sorted(observed[collector]), sorted(observed["collect"])
    assert [one[:7] for one in flows] == [one[:7] for one in ours]
    off_ms = 1000 if collector == "nfacctd v9" else 0  # nfacctd reads sysUptime in whole seconds
    for one, own in zip(flows, ours, strict=True):
        assert abs(one.first_ms - own.first_ms) <= off_ms, (one, own)
        assert abs(one.last_ms - own.last_ms) <= off_ms, (one, own)


@pytest.mark.parametrize("name", ["nfcapd", "nfcapd v9"])
def test_nfdump_sums_to_the_same(observed: Observed, name: str) -> None:
    flows = observed["collect"]
    sums = len(flows), sum(one.packets for one in flows), sum(one.octets for one in flows)
    collector = observed.collectors[name]
    assert isinstance(collector, Nfcapd)
    assert collector.csv_sums() == sums


@pytest.mark.parametrize(
    "name", ["nfacctd", "nfacctd v9", "collect v9", "collect tcp", "tshark", "tshark v9"]
)
def test_process_names_arrive_at_both_sides(observed: Observed, name: str) -> None:
    """They use ntop's elements.

    These are 35632/169 and 376 in IPFIX, and field types 57641 and 57848 in NetFlow v9.
    """
    reference, collector = observed.collectors["collect"], observed.collectors[name]
    assert isinstance(reference, Collect)
    assert not isinstance(collector, Nfcapd | Raw)
    ours = reference.processes()
    python = Path(sys.executable).name[:15]
    assert set(ours.values()) == {(python, python)}
    assert collector.processes() == ours


@pytest.mark.parametrize("name", ["tshark", "tshark v9", "tshark file"])
def test_wireshark_finds_nothing_malformed(observed: Observed, name: str) -> None:
    capture = observed.collectors[name]
    assert isinstance(capture, Capture)
    assert capture.malformed() == ""


def test_nothing_was_lost(observed: Observed) -> None:
    assert "lost: nothing" in observed.summary
