"""Tests ``sockflow collect`` with softflowd, an exporter of others, in both protocols.

softflowd reads a capture that the test has made, so that every flow is known. It needs neither a
namespace nor a privilege.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import wrpcap

from tests.support.interop.collectors import Collect
from tests.support.programs import LOOPBACK, wait_until

CONNECTIONS, QUERIES = 40, 10
SERVER, RESOLVER = "192.0.2.1", "2001:db8::ffff"
#: Seconds between a flow's time and the header's, which has whole seconds.
_SLACK_MS = 1500


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Returns (file, Unix time of its first packet).

    The file has connections that end, and queries without answers.
    """
    began_s = time.time() - 20
    packets: list[Any] = []
    for number in range(CONNECTIONS):
        client, port = f"10.0.0.{number + 1}", 30000 + number
        there = IP(src=client, dst=SERVER) / TCP(sport=port, dport=80, flags="PA")
        back = IP(src=SERVER, dst=client) / TCP(sport=80, dport=port, flags="FA")
        request = there / Raw(b"x" * (100 + number))
        there[TCP].flags = "FA"
        packets += [request, back / Raw(b"y" * 200), there]
    for number in range(QUERIES):
        packets.append(
            IPv6(src=f"2001:db8::{number + 1:x}", dst=RESOLVER)
            / UDP(sport=4000 + number, dport=53)
            / Raw(b"q" * 50)
        )
    frames = [Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / one for one in packets]
    for number, frame in enumerate(frames):
        frame.time = began_s + number / 1000
    path = tmp_path_factory.mktemp("capture") / "flows.pcap"
    wrpcap(str(path), frames)
    return path, began_s


class CollectAll(Collect):
    """``sockflow collect`` with option records."""

    def command(self) -> list[object]:
        return [*super().command(), "--options"]


@contextlib.contextmanager
def exported(folder: Path, capture: Path, *options: object) -> Iterator[list[dict[str, Any]]]:
    """Yields all records of a run of softflowd, including options.

    It runs without its control socket (-c none), because 1.1.0 may wait forever for a connection
    to that.
    """
    with contextlib.closing(CollectAll(folder)) as collector:
        subprocess.run(
            ["softflowd", "-d", "-6", "-r", capture, "-n", f"{LOOPBACK}:{collector.port}",
             "-p", folder / "pid", "-c", "none", *map(str, options)],
            check=True, capture_output=True, timeout=180,
        )  # fmt: skip
        wait_until(lambda: len(collector.records()) > CONNECTIONS, "softflowd's records")
        collector.finish()
        assert ", 0 broken messages, 0 sets without a template" in collector.program.errors
        yield collector.records()


def key(record: dict[str, Any]) -> tuple[str, str, int, int, int]:
    family = record["ipVersion"]
    return (
        record[f"sourceIPv{family}Address"], record[f"destinationIPv{family}Address"],
        record["sourceTransportPort"], record["destinationTransportPort"],
        record["protocolIdentifier"],
    )  # fmt: skip


def expected() -> dict[tuple[str, str, int, int, int], tuple[int, int]]:
    """Returns (packets, octets) of every direction."""
    flows = {}
    for number in range(CONNECTIONS):
        client, port = f"10.0.0.{number + 1}", 30000 + number
        flows[client, SERVER, port, 80, 6] = (2, 40 + 40 + 100 + number)
        flows[SERVER, client, 80, port, 6] = (1, 40 + 200)
    for number in range(QUERIES):
        flows[f"2001:db8::{number + 1:x}", RESOLVER, 4000 + number, 53, 17] = (1, 40 + 8 + 50)
    return flows


def counted(records: list[dict[str, Any]]) -> dict[Any, tuple[int, int]]:
    return {key(one): (one["packetDeltaCount"], one["octetDeltaCount"]) for one in records}


def split(records: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    options = [one for one in records if one.get("options")]
    return [one for one in records if not one.get("options")], options


@pytest.mark.parametrize("version", [9, 10])
@pytest.mark.parametrize("times", [(), ("-A", "milli")], ids=["uptime", "milli"])
def test_every_flow_of_softflowd(
    tmp_path: Path, capture: tuple[Path, float], version: int, times: tuple[str, ...]
) -> None:
    path, began_s = capture
    with exported(tmp_path, path, "-v", version, "-s", 1, *times) as records:
        flows, options = split(records)
    assert counted(flows) == expected()
    assert len(flows) == 2 * CONNECTIONS + QUERIES
    began_ms = {key(one): one["flowStartMilliseconds"] - began_s * 1000 for one in flows}
    lasted_ms = {
        key(one): one["flowEndMilliseconds"] - one["flowStartMilliseconds"] for one in flows
    }
    for number in range(CONNECTIONS):
        one = (f"10.0.0.{number + 1}", SERVER, 30000 + number, 80, 6)
        assert abs(began_ms[one] - 3 * number) < (2 if times else _SLACK_MS)
        assert lasted_ms[one] in (1, 2, 3)
    assert len(options) == 1
    interval = "samplingInterval" if version == 9 else "samplingPacketInterval"
    assert options[0][interval] == 1


def test_biflows_of_softflowd(tmp_path: Path, capture: tuple[Path, float]) -> None:
    """RFC 5103: reverse elements have PEN 29305."""
    with exported(tmp_path, capture[0], "-v", 10, "-b") as records:
        flows, _ = split(records)
    assert len(flows) == CONNECTIONS + QUERIES
    both = counted(flows)
    for one in flows:
        source, destination, source_port, destination_port, protocol = key(one)
        if reverse := (one["reversePacketDeltaCount"], one["reverseOctetDeltaCount"]):
            back = (destination, source, destination_port, source_port, protocol)
            both[back] = reverse
    assert {key: value for key, value in both.items() if value != (0, 0)} == expected()


def test_the_capture_is_what_the_test_says(capture: tuple[Path, float]) -> None:
    command = ["tshark", "-r", str(capture[0]), "-T", "fields", "-e", "frame.number"]
    done = subprocess.run(command, check=True, text=True, capture_output=True, timeout=180)
    assert len(done.stdout.split()) == 3 * CONNECTIONS + QUERIES
    assert len(expected()) == 2 * CONNECTIONS + QUERIES
