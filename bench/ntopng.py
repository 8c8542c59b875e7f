"""Measures the user CPU time of a flow from its record to the socket for ntopng."""

from __future__ import annotations

import os
import resource
import socket
import statistics
import threading
import time
from contextlib import closing

import numpy as np
import zmq

from bench.rate import Metering, make_owner, make_records
from bench.report import progress, table
from bench.workload import Workload
from probe.config import RunConfig
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows
from probe.interfaces.names import InterfaceList
from probe.ntopng.sink import ZmqSink
from probe.ntopng.tlv import TlvEncoder
from probe.run.destinations import parse_destination

_OWNERS = (64, 5000)
_START_S = 1_700_000_000.0


def measure(_: Workload, seconds: float) -> str:
    head = ["owners", "octets per flow", "µs of user CPU per flow to encode",
            "and to send, with the library's thread", "received"]  # fmt: skip
    return table(head, [_one(count, seconds) for count in _OWNERS])


def _one(count: int, seconds: float) -> list[str]:
    owners = OwnerTable()
    for number in range(count):
        owners.add(make_owner(number))
    records = _both_directions(make_records(count))
    octets, encode_us = _encode(owners, records, seconds)
    sent_us, share = _send(owners, records, seconds)
    progress(f"ntopng: {count} owners: {encode_us:.2f} us a flow, {sent_us:.2f} with sending")
    return [str(count), f"{octets:.0f}", f"{encode_us:.2f}", f"{sent_us:.2f}", f"{share:.0%}"]


def _both_directions(records: Rows) -> Rows:
    """Returns records of which every second answers the one before it."""
    place = np.arange(len(records))
    records["flow_id"], records["biflow_direction"] = place // 2 + 1, 1 + place % 2
    records["source_netns"] = 1
    return records


def _encode(owners: OwnerTable, records: Rows, seconds: float) -> tuple[float, float]:
    """Returns the octets and the microseconds of a flow, as medians of many batches."""
    encoder = TlvEncoder(owners, exporter="192.0.2.1")
    payloads = list(encoder.encode(records))
    flows = sum(part.flows for part in payloads)
    octets = sum(len(part.octets) for part in payloads)
    spent, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = _user_s()
        for _ in encoder.encode(records):
            pass
        spent.append((_user_s() - began) / flows)
    return octets / flows, statistics.median(spent) * 1e6


def _send(owners: OwnerTable, records: Rows, seconds: float) -> tuple[float, float]:
    """Returns the microseconds of a flow in this process, and the share that was received."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    child = _read_in_child(port)
    target = parse_destination(f"zmq://127.0.0.1:{port}?bind=1")
    sink = ZmqSink(target, RunConfig(), owners, Metering(), InterfaceList())
    with closing(sink):
        deadline = time.monotonic() + 20
        while sink.is_down and time.monotonic() < deadline:
            sink.pump(time.monotonic())
            time.sleep(0.01)
        began, end = _user_s(), time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            sink.send(records, _START_S + now)
            while sink.backlog and time.monotonic() < end + 10:
                sink.pump(time.monotonic())
                if sink.backlog:
                    time.sleep(0.001)
        spent, flows = _user_s() - began, sink.statistics.sent_flow_records
        sent = sink.statistics.sent_messages
    os.write(child.stop, b"x")
    return spent / max(1, flows) * 1e6, child.received() / max(1, sent)


class _Child:
    def __init__(self, pid: int, stop: int, told: int) -> None:
        self.pid, self.stop, self._told = pid, stop, told

    def received(self) -> int:
        with os.fdopen(self._told) as told:
            count = int(told.read() or 0)
        os.close(self.stop)
        os.waitpid(self.pid, 0)
        return count


def _read_in_child(port: int) -> _Child:
    stop, told = os.pipe(), os.pipe()
    pid = os.fork()
    if pid:
        os.close(stop[0])
        os.close(told[1])
        return _Child(pid, stop[1], told[0])
    os.close(stop[1])
    count = _count_messages(port, stop[0])
    os.write(told[1], str(count).encode())
    os._exit(0)


def _count_messages(port: int, stop: int) -> int:
    """Counts messages until a word on ``stop``, and then until none arrives for a while."""
    count, is_over = 0, threading.Event()

    def wait() -> None:
        os.read(stop, 1)
        is_over.set()

    threading.Thread(target=wait, daemon=True).start()
    with zmq.Context() as context, context.socket(zmq.SUB) as reader:
        reader.subscribe("")
        reader.connect(f"tcp://127.0.0.1:{port}")
        while reader.poll(300) or not is_over.is_set():
            while reader.poll(0):
                reader.recv_multipart(copy=False)
                count += 1
    return count


def _user_s() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime
