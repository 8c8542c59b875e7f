"""How fast records become messages in a socket, without a pace."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

import numpy as np

from bench.report import progress, table
from bench.workload import Workload
from probe.export.destination import parse_destination
from probe.export.udp import UdpDestination
from probe.flow.batch import RECORD_DTYPE, Rows
from probe.flow.owner import Owner, OwnerTable
from probe.ipfix.session import ExportSession
from probe.mapping import Encoder, load_elements, load_template

_OWNERS = 64
_BATCH = 20_000
_START_NS = 1_700_000_000_000_000_000


def measure(load: Workload, seconds: float) -> str:
    rows = [_one(load, template, seconds) for template in ("numeric", "full")]
    head = ["Template", "octets per record with headers", "records/s", "records per CPU second",
            "messages received"]  # fmt: skip
    return table(head, rows)


def _one(load: Workload, template: str, seconds: float) -> list[str]:
    port = _free_port()
    with load.sink(port) as sink:
        os.sched_setaffinity(0, {0})
        try:
            destination = UdpDestination(parse_destination(f"ipfix://127.0.0.1:{port}?pace=0"))
            session = _session(template, destination)
            elapsed, cpu = _export(session, destination, _records(), seconds)
        finally:
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
        destination.close()
        time.sleep(0.5)
        received = sink.operations
    sent = destination.statistics
    progress(f"rate: {template}: {sent.sent_records} records in {elapsed:.1f} s")
    return [
        template,
        f"{sent.sent_octets / sent.sent_records:.0f}",
        f"{sent.sent_records / elapsed / 1e6:.2f} M",
        f"{sent.sent_records / cpu / 1e6:.2f} M",
        f"{received / sent.sent_messages:.0%}",
    ]


def _export(
    session: ExportSession, destination: UdpDestination, records: Rows, seconds: float
) -> tuple[float, float]:
    """Wall and CPU seconds that it took."""
    started, cpu = time.monotonic(), time.process_time()
    while (now := time.monotonic()) < started + seconds:
        destination.enqueue(session.messages(records, _START_NS / 1e9 + now))
        while destination.pump(time.monotonic()) is not None:
            pass
    return time.monotonic() - started, time.process_time() - cpu


def _session(template: str, destination: UdpDestination) -> ExportSession:
    owners = OwnerTable()
    for number in range(_OWNERS):
        owners.add(_owner(number))
    encoder = Encoder(load_template(template, load_elements()), owners)
    return ExportSession(encoder, max_message=destination.max_message, refresh_s=1e9)


def _owner(number: int) -> Owner:
    return Owner(
        pid=1000 + number,
        process_name=f"worker-{number}",
        process_path=f"/usr/lib/service-{number}/bin/worker",
        path_source="walked",
        parent_pid=number + 1,
        parent_name="containerd-shim",
        parent_path="/usr/bin/containerd-shim-runc-v2",
        uid=number,
        gid=number,
        user_name=f"user{number}",
        container_id=f"{number:064x}",
    )


def _records() -> Rows:
    random = np.random.default_rng(1)
    records: Rows = np.zeros(_BATCH, RECORD_DTYPE)
    for name in ("octets", "packets", "flow_id", "rtt_us"):
        records[name] = random.integers(1, 1 << 20, _BATCH)
    for name in ("source_port", "destination_port"):
        records[name] = random.integers(1024, 1 << 16, _BATCH)
    for name in ("source_owner", "destination_owner"):
        records[name] = random.integers(1, _OWNERS + 1, _BATCH)
    for name in ("source_address", "destination_address"):
        records[name][:, :4] = random.integers(1, 255, (_BATCH, 4))
    records["first_ns"] = _START_NS
    records["last_ns"] = _START_NS + random.integers(0, 1 << 30, _BATCH)
    records["protocol"], records["ip_version"], records["tcp_state"] = 6, 4, 1
    return records


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found, suppress(OSError):
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
    raise OSError("no free port")
