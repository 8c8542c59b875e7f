"""Tests paths that are narrow, become narrow and grow again, on links of the kernel."""

from __future__ import annotations

import json
import logging
import pathlib
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from probe.export.message_sink import MessageSink
from probe.flow.rows import Rows
from tests.support.lab.hosts import run
from tests.support.lab.router import PORT, Path, Receiver, drive, exporting
from tests.support.programs import SOCKFLOW, running, wait_until
from tests.support.records import NOW_S, flow_records

_COUNT = 3000


@pytest.fixture
def path() -> Iterator[Path]:
    with Path() as found:
        yield found


def numbered(first: int, count: int = _COUNT, ip_version: int = 4) -> Rows:
    records = flow_records(count, ip_version=ip_version)
    records["flow_id"] += first
    return records


def send(stream: MessageSink, receiver: Receiver, first: int, count: int = _COUNT) -> None:
    """Sends ``count`` records and waits until all have arrived."""
    stream.send(numbered(first, count), NOW_S)
    expected = set(range(first + 1, first + count + 1))
    drive(stream, receiver, lambda: expected <= set(receiver.flows))


def names_described(receiver: Receiver) -> set[object]:
    return {record.get("informationElementName") for record in receiver.options}


@pytest.mark.parametrize("scheme", ["ipfix", "netflow9"])
@pytest.mark.parametrize("mtu", [1420, 1280, 576])
def test_a_link_that_is_narrow_gets_all_from_the_first_message_on(
    path: Path, mtu: int, scheme: str
) -> None:
    path.set_mtu("near", mtu)
    with exporting(path, scheme=scheme, query="?profile=numeric") as (stream, receiver):
        send(stream, receiver, 0)
        assert receiver.sizes
        assert mtu - 200 < max(receiver.sizes) <= mtu - 28
        assert "tcpLostSegmentDeltaCount" in names_described(receiver)
        assert receiver.decoder.statistics.lost_records == 0
        assert receiver.decoder.statistics.lost_messages == 0
        assert receiver.decoder.statistics.unknown_sets == 0
        assert stream.statistics.dropped_messages == stream.statistics.errors == 0
    assert path.fragments() == 0


def test_a_router_that_says_so_gets_smaller_messages_and_the_types_again(path: Path) -> None:
    """Messages that were too long are dropped before the router's first report."""
    path.set_mtu("far", 1280)
    with exporting(path) as (stream, receiver):
        stream.send(numbered(0, 0), NOW_S)
        drive(stream, receiver, lambda: stream.sender.max_message == 1252)
        stream.send(numbered(0, 0), NOW_S + 1)
        drive(stream, receiver, lambda: "SRC_PROC_NAME" in names_described(receiver))
        send(stream, receiver, 0)
        assert max(receiver.sizes) <= 1252
        assert stream.statistics.dropped_messages == 0
        assert not stream.is_down
    assert path.fragments() == 0


@pytest.mark.parametrize("scheme", ["ipfix", "netflow9"])
def test_what_waits_when_a_link_becomes_narrow_is_cut_anew(path: Path, scheme: str) -> None:
    """When the link grows again, messages grow, too."""
    with exporting(path, "?profile=numeric&pace=200000", scheme=scheme) as (stream, receiver):
        stream.send(numbered(0), NOW_S)
        drive(stream, receiver, lambda: len(receiver.flows) > _COUNT // 10)
        assert len(receiver.flows) < _COUNT
        assert max(receiver.sizes) > 1300
        path.set_mtu("near", 700)
        before = len(receiver.sizes)
        drive(stream, receiver, lambda: set(receiver.flows) == set(range(1, _COUNT + 1)))
        assert max(receiver.sizes[before + 50 :]) <= 672
        assert len(receiver.flows) == _COUNT
        statistics = receiver.decoder.statistics
        assert statistics.lost_records == statistics.lost_messages == 0
        assert stream.statistics.dropped_messages == 0
        path.set_mtu("near", 1500)
        drive(stream, receiver, lambda: stream.sender.max_message == 1400)
        before = len(receiver.sizes)
        send(stream, receiver, _COUNT, 200)
        assert max(receiver.sizes[before:]) > 1300
    assert path.fragments() == 0


@pytest.mark.parametrize("query", ["", "&segmentation=on&pace=0"])
def test_a_record_that_is_longer_than_the_path_takes_leaves_in_fragments(
    path: Path, caplog: pytest.LogCaptureFixture, query: str
) -> None:
    """Nothing is lost, and one warning says what to do. The state ends once the path has grown."""
    url = f"?profile=kubernetes{query}"
    with exporting(path, url, scheme="netflow9") as (stream, receiver):
        send(stream, receiver, 0, 300)
        path.set_mtu("near", 600)
        for part in range(3):
            send(stream, receiver, 1000 * (part + 1), 300)
        assert stream.session.max_message == stream.session.least_message > 600
        assert path.fragments() > 300
        caplog.set_level(logging.WARNING)
        (warning,) = [one for one in caplog.records if one.name == "probe.export.message_sink"]
        assert warning.getMessage().startswith(f"netflow9://10.79.2.1:{PORT}: the path takes")
        assert stream.statistics.dropped_messages == 0
        path.set_mtu("near", 1500)
        send(stream, receiver, 5000, 300)
        before = path.fragments()
        send(stream, receiver, 6000, 300)
        assert path.fragments() == before
        assert max(receiver.sizes) <= 1400
        path.set_mtu("near", 600)
        send(stream, receiver, 7000, 300)
        assert caplog.text.count("in fragments") == 2, "it is said again when it is so again"


@pytest.mark.parametrize(("mtu", "largest"), [(600, 572), (576, 548), (575, 1400), (68, 1400)])
def test_forged_messages_cost_no_record(path: Path, mtu: int, largest: int) -> None:
    """Sizes below 576 octets are not believed; larger ones make messages smaller."""
    with exporting(path, "?profile=numeric") as (stream, receiver):
        send(stream, receiver, 0)
        address = stream.local_address()
        assert address
        for part in range(1, 4):
            path.forge(mtu, address[1])
            time.sleep(0.01)
            before = len(receiver.sizes)
            send(stream, receiver, part * _COUNT)
            assert largest - 200 < max(receiver.sizes[before:]) <= largest
        path.forge(mtu, address[1])
        time.sleep(0.05)
        stream.pump(time.monotonic())  # there is nothing to send
        assert stream.statistics.errors == 0
        assert stream.statistics.dropped_messages == 0
        assert not stream.is_down
    assert path.fragments() == 0


def test_ipv6(path: Path) -> None:
    with exporting(path, host="fd79:2::1") as (stream, receiver):
        send(stream, receiver, 0)
        path.set_mtu("far", 1280)
        stream.send(numbered(_COUNT), NOW_S)
        drive(stream, receiver, lambda: stream.sender.max_message == 1232)
        before = len(receiver.sizes)
        send(stream, receiver, 2 * _COUNT)
        assert max(receiver.sizes[before:]) <= 1232
        path.set_mtu("near", 1400)
        send(stream, receiver, 3 * _COUNT)
        assert stream.statistics.dropped_messages == 0


def test_a_link_that_is_down_loses_what_is_counted_and_recovers(path: Path) -> None:
    with exporting(path) as (stream, receiver):
        send(stream, receiver, 0)
        run("ip", "-n", path.exporter, "link", "set", "near", "down")
        stream.send(numbered(_COUNT), NOW_S)
        drive(stream, receiver, lambda: stream.is_down)
        lost = stream.statistics.dropped_flow_records
        assert lost > 0
        run("ip", "-n", path.exporter, "link", "set", "near", "up")
        run("ip", "-n", path.exporter, "route", "replace", "default", "via", "10.79.1.2")
        drive(stream, receiver, lambda: not stream.is_down)
        send(stream, receiver, 2 * _COUNT)


_TRAFFIC = """
import socket, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    sender.sendto(b"x", ("127.0.0.1", 24321))
    time.sleep(0.02)
"""


def test_the_program_goes_on_and_nfcapd_gets_all(path: Path, tmp_path: pathlib.Path) -> None:
    """The profile with the longest NetFlow v9 records uses a link that becomes narrow."""
    flows, files = tmp_path / "flows.json", tmp_path / "files"
    files.mkdir()
    # ip netns exec would mount its own /sys, without cgroups
    near, far = (("nsenter", f"--net=/run/netns/{one}") for one in (path.exporter, path.collector))
    nfcapd = (*far, "nfcapd", "-b", "10.79.2.1", "-p", PORT, "-w", files, "-t", 60)
    command = (*near, *SOCKFLOW, "run", "-e", f"netflow9://10.79.2.1:{PORT}?profile=kubernetes",
               "-e", f"json://{flows}", "--include", "port=24321",
               "--active-timeout", 1)  # fmt: skip

    def told() -> list[int]:
        """Returns the packets of each record that the other destination got."""
        lines = flows.read_text().splitlines() if flows.exists() else []
        found = [json.loads(line) for line in lines]
        return [one["PKTS_SENT"] + one["PKTS_RCVD"] for one in found if "PKTS_SENT" in one]

    with (
        running(nfcapd, tmp_path, "nfcapd") as collector,
        running((*near, sys.executable, "-c", _TRAFFIC), tmp_path, "traffic"),
        running(command, tmp_path, "probe") as probe,
    ):
        wait_until(lambda: len(told()) > 2, f"records: {probe.errors}")
        path.set_mtu("near", 600)
        before = len(told())
        wait_until(lambda: len(told()) > before + 3, f"more of them: {probe.errors}")
        assert probe.stop() == 0, probe.errors
        assert collector.stop(signal.SIGINT) == 0
    assert probe.errors.count("leave in fragments") == 1
    assert "lost: nothing" in probe.errors
    nfdump = ("nfdump", "-R", str(files), "-q", "-N", "-o", "fmt:%pkt", "dst port 24321")
    packets = [int(word) for word in run(*nfdump).stdout.split()]
    assert sorted(packets) == sorted(told())


def test_a_firewall_of_the_host_costs_what_is_counted(path: Path) -> None:
    """sendmmsg reports EPERM amid many messages."""
    hook = "type filter hook output priority 0;"
    rule = f"table ip deny {{\n chain out {{\n {hook}\n udp dport {PORT} drop\n }}\n}}\n"
    nft = ("ip", "netns", "exec", path.exporter, "nft")
    with exporting(path) as (stream, receiver):
        send(stream, receiver, 0)
        run(*nft, "-f", "-", input=rule)
        stream.send(numbered(_COUNT), NOW_S)
        drive(stream, receiver, lambda: stream.is_down)
        assert stream.statistics.dropped_flow_records > 0
        run(*nft, "delete", "table", "ip", "deny")
        drive(stream, receiver, lambda: not stream.is_down)
        send(stream, receiver, 2 * _COUNT)
        assert stream.statistics.bursts == 1
