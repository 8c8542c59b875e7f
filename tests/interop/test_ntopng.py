"""Tests that ntopng reads over ZMQ what a file of the same run holds, with real traffic."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.interop.test_transports import HURRY
from tests.support.interop.collectors import FileOfRun
from tests.support.interop.workload import INCLUDE, Workload
from tests.support.lab.hosts import Host
from tests.support.ntopng.reader import Reader
from tests.support.programs import SOCKFLOW, probing

Sums = dict[tuple[Any, ...], list[int]]


class Reading:
    """A reader that reads all the time, as ntopng does."""

    def __init__(self) -> None:
        self.reader = Reader("tcp://127.0.0.1:*", bind=True)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def finish(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            self.reader.read()

    def close(self) -> None:
        self.finish()
        self.reader.close()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self.reader.read()


def sums_of_reader(flows: list[dict[str, Any]]) -> Sums:
    """Returns (packets, octets) of each direction that had any."""
    found: Sums = {}
    for flow in flows:
        version = flow["IP_PROTOCOL_VERSION"]
        ends = [
            (flow[f"IPV{version}_{side}_ADDR"], flow[f"L4_{side}_PORT"]) for side in ("SRC", "DST")
        ]
        for way, (one, other) in (("IN", ends), ("OUT", reversed(ends))):
            sums = found.setdefault((*one, *other, flow["PROTOCOL"]), [0, 0])
            sums[0] += flow[f"{way}_PKTS"]
            sums[1] += flow[f"{way}_BYTES"]
    return {key: sums for key, sums in found.items() if sums[0]}


def sums_of_file(file: FileOfRun) -> Sums:
    found: Sums = {}
    for flow in file.flows():
        source, destination, source_port, destination_port, protocol = flow.key
        sums = found.setdefault(
            (source, source_port, destination, destination_port, protocol), [0, 0]
        )
        sums[0] += flow.packets
        sums[1] += flow.octets
    return {key: sums for key, sums in found.items() if sums[0]}


def test_ntopng_reads_what_the_file_holds(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(contextlib.closing(FileOfRun(tmp_path)))
        reading = stack.enter_context(contextlib.closing(Reading()))
        reader = reading.reader
        url = f"zmq://127.0.0.1:{reader.port}"
        options = ("-e", file.url, "-e", url, *HURRY, *INCLUDE)
        probe = stack.enter_context(probing(tmp_path, *options))
        workload = Workload(hosts)
        workload.short(50)
        workload.datagrams(30)
        assert probe.stop() == 0, probe.errors
        file.finish()
        reading.finish()
    told = sums_of_reader(reader.flows)
    assert told == sums_of_file(file)
    assert Counter(key[4] for key in told) == {6: 2 * workload.tcp, 17: 2 * workload.udp}
    servers = {str(workload.there.four), str(workload.there.six)}
    tcp = [flow for flow in reader.flows if flow["PROTOCOL"] == 6]
    assert {flow[f"IPV{flow['IP_PROTOCOL_VERSION']}_DST_ADDR"] for flow in tcp} <= servers
    for side in ("SRC", "DST"):
        assert all(flow[f"{side}_PROC_PID"] and flow[f"{side}_PROC_NAME"] for flow in tcp)
        assert all(flow[f"{side}_FATHER_PROC_PID"] for flow in tcp)
    assert any(flow.get("SERVER_NW_LATENCY_MS", 0) > 0 for flow in tcp)
    assert reader.dropped == 0
    assert reader.ids == list(range(reader.ids[0], reader.ids[0] + len(reader.ids)))
    assert reader.topics["event"][-1]["packets"] > 0
    assert "lost: nothing" in probe.errors


@pytest.mark.parametrize("query", ["?curve=/nowhere", "?flows=xml"])
def test_what_cannot_be_used_is_said_in_one_line(tmp_path: Path, query: str) -> None:

    command = (*SOCKFLOW, "run", "-e", f"zmq://127.0.0.1:5556{query}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "zmq://127.0.0.1:5556" in done.stderr
