"""Measures how fast records become messages in a socket, without a pace."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

import numpy as np

from bench.report import progress, table
from bench.workload import Workload
from probe.config import RunConfig
from probe.export.message_sink import MessageSink
from probe.export.sink_factory import SinkFactory
from probe.figures import Figures
from probe.flow.columns import RECORD_DTYPE
from probe.flow.owner import Container, Owner, OwnerTable, Process
from probe.flow.rows import Rows
from probe.interfaces.names import InterfaceList
from probe.mapping import load_elements, load_profile, load_profiles, load_template
from probe.run.destinations import open_sink, parse_destination
from probe.run.heap import keep_freed

_FEW, _MANY = 64, 5000  # owners
_BATCH = 20_000
_START_NS = 1_700_000_000_000_000_000


class Metering:
    """Stands for the Metering Process that the options describe."""

    def figures(self) -> Figures:
        return Figures()


def measure(load: Workload, seconds: float) -> str:
    keep_freed()  # as the probe does
    rows = [
        _one(load, scheme, profile, owners, seconds)
        for profile in load_profiles()
        for scheme in ("ipfix", "netflow9")
        for owners in ((_FEW, _MANY) if _has_names(profile) else (_FEW,))
    ]
    rows.append(_one(load, "ipfix", "full", _FEW, seconds, "&biflow=rfc5103"))
    head = ["protocol", "profile", "owners", "octets per record with headers", "records/s",
            "records per CPU second", "messages received"]  # fmt: skip
    return table(head, rows)


def _has_names(profile: str) -> bool:
    template = load_template(load_profile(profile).template, load_elements())
    return any(field.is_variable for field in template.fields(4))


def _one(
    load: Workload, scheme: str, profile: str, owners: int, seconds: float, more: str = ""
) -> list[str]:
    port = _free_port()
    url = f"{scheme}://127.0.0.1:{port}?pace=0&profile={profile}{more}"
    with load.sink(port) as sink:
        os.sched_setaffinity(0, {0})
        try:
            stream = _stream(url, owners)
            elapsed, cpu = _export(stream, make_records(owners), seconds)
        finally:
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
        stream.sender.close()
        time.sleep(0.5)
        received = sink.operations
    sent = stream.sender.statistics
    progress(f"rate: {url}: {sent.sent_records} records in {elapsed:.1f} s")
    return [
        scheme,
        profile + (", biflow" if more else ""),
        str(owners),
        f"{sent.sent_octets / sent.sent_records:.0f}",
        f"{sent.sent_records / elapsed / 1e6:.2f} M",
        f"{sent.sent_records / cpu / 1e6:.2f} M",
        f"{received / sent.sent_messages:.0%}",
    ]


def _export(stream: MessageSink, records: Rows, seconds: float) -> tuple[float, float]:
    """Exports the records, and returns the wall and CPU seconds."""
    started, cpu = time.monotonic(), time.process_time()
    while (now := time.monotonic()) < started + seconds:
        stream.send(records, _START_NS / 1e9 + now)
        while stream.pump(time.monotonic()) is not None:
            pass
    return time.monotonic() - started, time.process_time() - cpu


def _stream(url: str, count: int) -> MessageSink:
    owners = OwnerTable()
    for number in range(count):
        owners.add(make_owner(number))
    factory = SinkFactory(RunConfig(), owners, Metering(), InterfaceList(), _START_NS / 1e9 - 1e5)
    sink = open_sink(parse_destination(url), factory)
    assert isinstance(sink, MessageSink)
    return sink


def make_owner(number: int) -> Owner:
    return Owner(
        Process(
            1000 + number,
            f"worker-{number}",
            f"/usr/lib/service-{number}/bin/worker",
            path_source="walked",
            uid=number,
            gid=number,
            user_name=f"user{number}",
        ),
        parent=Process(number + 1, "containerd-shim", "/usr/bin/containerd-shim-runc-v2"),
        container=Container(f"{number:064x}"),
    )


def make_records(owners: int) -> Rows:
    random = np.random.default_rng(1)
    records: Rows = np.zeros(_BATCH, RECORD_DTYPE)
    for name in ("octets", "packets", "flow_id", "rtt_us"):
        records[name] = random.integers(1, 1 << 20, _BATCH)
    for name in ("source_port", "destination_port"):
        records[name] = random.integers(1024, 1 << 16, _BATCH)
    for name in ("source_owner", "destination_owner"):
        records[name] = random.integers(1, owners + 1, _BATCH)
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
