"""One run of the probe, real traffic, and all collectors at once: the same flows everywhere."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Host

from tests.interop.collectors import Capture, Collect, Nfacctd, Nfcapd, scapy_flows
from tests.interop.flows import TCP, UDP, Flow, assert_near, sent_by
from tests.interop.programs import Datagrams, ipfix, probing
from tests.interop.workload import INCLUDE, Workload

#: A Template of the user's own, for a reader that knows no enterprise numbers.
_IANA_TEMPLATE = """
sourceIPv4Address | sourceIPv6Address
destinationIPv4Address | destinationIPv6Address
sourceTransportPort
destinationTransportPort
protocolIdentifier
tcpControlBits[1]
octetDeltaCount
packetDeltaCount
"""


@dataclass
class Observed:
    """What each collector says of the same minute."""

    workload: Workload
    nfcapd: Nfcapd
    nfacctd: Nfacctd
    collect: Collect
    capture: Capture
    plain: list[bytes]
    summary: str

    def flows(self, name: str) -> list[Flow]:
        if name == "scapy":
            return scapy_flows(self.plain)
        found: list[Flow] = getattr(self, name).flows()
        return found


@pytest.fixture(scope="module")
def observed(
    hosts: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("agreement")
    template = folder / "iana.txt"
    template.write_text(_IANA_TEMPLATE)
    with contextlib.ExitStack() as stack:
        enter, close = stack.enter_context, contextlib.closing
        nfcapd, nfacctd = enter(close(Nfcapd(folder))), enter(close(Nfacctd(folder)))
        collect, plain = enter(close(Collect(folder))), enter(close(Datagrams()))
        capture = enter(close(Capture(folder, nfcapd.port)))
        targets = [word for one in (nfcapd, nfacctd, collect) for word in ("-e", ipfix(one.port))]
        probe = enter(probing(folder, *targets, *INCLUDE))
        other = enter(probing(folder, "-e", ipfix(plain.port), "--template", template, *INCLUDE,
                              name="second probe"))  # fmt: skip
        workload = Workload(hosts)
        workload.play(300)
        assert (probe.stop(), other.stop()) == (0, 0), probe.errors + other.errors
        for collector in (nfcapd, nfacctd, collect, capture):
            collector.finish()
        yield Observed(workload, nfcapd, nfacctd, collect, capture, plain.read(), probe.errors)


COLLECTORS = ["nfcapd", "nfacctd", "collect", "capture", "scapy"]


@pytest.mark.parametrize("collector", COLLECTORS)
def test_each_direction_of_each_flow_is_there_once(observed: Observed, collector: str) -> None:
    """Both ends are on this host: without joining there would be four records a connection."""
    flows = observed.flows(collector)
    keys = Counter(one.key for one in flows)
    assert set(keys.values()) == {1}
    assert {one.reverse for one in flows} == set(keys)
    of = Counter(one.protocol for one in flows)
    assert of == {TCP: 2 * observed.workload.tcp, UDP: 2 * observed.workload.udp}


@pytest.mark.parametrize("collector", COLLECTORS)
@pytest.mark.parametrize("way", ["client to server", "server to client"])
def test_packets_and_octets_are_those_of_nft(observed: Observed, collector: str, way: str) -> None:
    """UDP exactly; TCP within half a percent, short connections with every close among it."""
    workload = observed.workload
    sender = workload.here if way == "client to server" else workload.there
    flows = observed.flows(collector)
    assert sent_by(flows, sender, UDP) == workload.truth(sender, "udp")
    assert_near(sent_by(flows, sender, TCP), workload.truth(sender, "tcp"), 0.005)


@pytest.mark.parametrize("collector", COLLECTORS)
def test_collectors_agree_on_every_record(observed: Observed, collector: str) -> None:
    """To the packet and the octet; scapy's are those of a second probe with another Template."""
    assert sorted(observed.flows(collector)) == sorted(observed.collect.flows())


def test_nfdump_sums_to_the_same(observed: Observed) -> None:
    flows = observed.collect.flows()
    sums = len(flows), sum(one.packets for one in flows), sum(one.octets for one in flows)
    assert observed.nfcapd.csv_sums() == sums


def test_process_names_arrive_at_both_sides(observed: Observed) -> None:
    """ntop's elements (35632:169 and 376) in pmacct, Wireshark and our own collector."""
    ours = observed.collect.processes()
    name = Path(sys.executable).name[:15]
    assert set(ours.values()) == {(name, name)}
    assert observed.nfacctd.processes() == ours
    assert observed.capture.processes() == ours


def test_wireshark_finds_nothing_malformed(observed: Observed) -> None:
    assert observed.capture.malformed() == ""


def test_nothing_was_lost(observed: Observed) -> None:
    assert "lost: nothing" in observed.summary
