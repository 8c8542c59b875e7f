"""Tests that tshark and nfdump read the same from lenient exporters as our collector does.

tests/unit/test_decode_lenient.py tests our collector against the samples.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import wrpcap

from tests.support.interop.collectors import Collect, Nfcapd
from tests.support.ipfix.lenient import SAMPLES, Sample, expected
from tests.support.programs import LOOPBACK, wait_for_reader, wait_until

_FIELDS = ("srcaddr", "dstaddr", "srcport", "dstport", "protocol", "octets", "packets")
_PORT = 2055
_BOTH = [expected(1), expected(2)]


def judged_by(name: str) -> pytest.MarkDecorator:
    some = [sample for sample in SAMPLES if name in sample.judges]
    return pytest.mark.parametrize("sample", some, ids=lambda one: str(one.name))


def test_most_samples_have_a_judge() -> None:
    assert sum(bool(sample.judges) for sample in SAMPLES) >= len(SAMPLES) - 4


@judged_by("tshark")
def test_tshark_reads_the_same(tmp_path: Path, sample: Sample) -> None:
    frames = [
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src="192.0.2.9", dst="192.0.2.10")
        / UDP(sport=_PORT, dport=_PORT)
        / Raw(datagram)
        for datagram in sample.datagrams
    ]
    wrpcap(str(tmp_path / "flows.pcap"), frames)
    asked = [word for name in _FIELDS for word in ("-e", f"cflow.{name}")]
    done = subprocess.run(
        ["tshark", "-r", str(tmp_path / "flows.pcap"), "-d", f"udp.port=={_PORT},cflow",
         "-T", "fields", "-E", "separator=;", *asked],
        check=True, text=True, capture_output=True, timeout=180,
    )  # fmt: skip
    found = []
    for line in done.stdout.splitlines():
        columns = [column.split(",") if column else [] for column in line.split(";")]
        found += list(zip(*columns, strict=True))
    assert found == [tuple(map(str, one)) for one in _BOTH]


@judged_by("nfdump")
def test_nfdump_reads_the_same(tmp_path: Path, sample: Sample) -> None:
    with contextlib.closing(Nfcapd(tmp_path)) as nfcapd:
        send(sample, nfcapd.port)
        nfcapd.finish()
        flows = sorted(nfcapd.flows())
    assert [(*one.key, one.octets, one.packets) for one in flows] == _BOTH
    assert [one.last_ms - one.first_ms for one in flows] == [1000, 1000]


def test_sockflow_tells_each_kind_without_v(tmp_path: Path) -> None:
    """The real command prints records, and the reason of each kind on standard error."""
    with contextlib.closing(Collect(tmp_path)) as collector:
        for sample in SAMPLES:
            send(sample, collector.port)
        wait_until(lambda: len(collector.records()) == 2 * len(SAMPLES), "both flows of each")
        collector.finish()
        errors = collector.program.errors
    *told, summary = errors.splitlines()
    for kind in {kind for sample in SAMPLES for kind in sample.oddities}:
        (line,) = [line for line in told if f": {kind.text}: " in line]
        assert line.startswith(f"sockflow: WARNING: {LOOPBACK} port ")
        assert f" {kind.text}" in summary


def send(sample: Sample, port: int) -> None:
    """Sends from an own socket, as each exporter would.

    Each datagram waits until the previous one is read.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((LOOPBACK, 0))
        for datagram in sample.datagrams:
            sender.sendto(datagram, (LOOPBACK, port))
            wait_for_reader(port)
