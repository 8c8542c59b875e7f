"""Measures the user CPU time to encode and write a JSON object."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np

from bench.rate import make_owner, make_records
from bench.report import progress, table
from bench.workload import Workload
from probe.config import RunConfig
from probe.flow.columns import EVENT_DTYPE
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows
from probe.jsonlines.json import JsonSink
from probe.run.destinations import parse_destination

_LOT = 10_000
_OWNERS = 256


def measure(load: Workload, seconds: float) -> str:
    """Writes events and flows of containers to /dev/null; a flow has both directions."""
    rows = []
    for form in ("agent", "ecs"):
        for kind in ("event", "flow"):
            cost_us, length = _one(form, kind, seconds)
            progress(f"lines: {form} {kind} {cost_us:.2f} us")
            rows.append([form, kind, f"{cost_us:.2f}", f"{length:,.0f}"])
    return table(["format", "object", "user µs per object", "octets"], rows)


def _one(form: str, kind: str, seconds: float) -> tuple[float, float]:
    """Returns the median user time of an object in µs, and its octets."""
    owners = OwnerTable()
    for number in range(_OWNERS):
        owners.add(make_owner(number))
    sink = JsonSink(parse_destination(f"json:///dev/null?format={form}"), RunConfig(), owners)
    rows = _events() if kind == "event" else make_records(_OWNERS)[:_LOT]
    send: Callable[[Rows, float], None] = sink.send_events if kind == "event" else sink.send
    costs: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(costs) < 5:
        began, before = os.times().user, sink.statistics.sent_records
        for _ in range(5):
            send(rows, time.time())
            sink.flush(time.monotonic() + 10)
        sent = sink.statistics.sent_records - before
        costs.append((os.times().user - began) / sent * 1e6)
    counted = sink.statistics
    sink.close()
    return float(np.median(costs)), counted.sent_octets / counted.sent_records


def _events() -> Rows:
    events = np.zeros(_LOT, EVENT_DTYPE)
    row = np.arange(_LOT)
    events["kind"], events["owner"], events["role"] = 1 + row % 5, 1 + row % _OWNERS, 1 + row % 2
    events["time_ns"], events["flow_id"] = time.time_ns() + row, (1 << 60) + row
    events["protocol"], events["ip_version"], events["tcp_state"] = 6, 4, 1
    events["local_address"][:, 0], events["local_address"][:, 3] = 10, row % 250
    events["remote_address"][:, 0], events["remote_address"][:, 3] = 10, row % 100
    events["local_port"], events["remote_port"] = 1024 + row, 443
    return events
