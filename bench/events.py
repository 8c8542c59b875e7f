"""Lifecycle events under short connections: none lost, and what they cost in user space.

The probe writes JSON lines to /dev/null, once with flows only and once with events too, so the
difference is theirs: reading, sorting, filtering, encoding and writing.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass

from bench.network import network
from bench.process import BenchError, Started, descriptors, running, wait_until
from bench.report import progress, table
from bench.workload import Workload

_WARM_UP_S = 3.0
_SETTLE_S = 2.5
#: Of a connection between two local ends: CONNECT, ACCEPT, and CLOSE of either.
_EVENTS = 4
_OBJECTS = re.compile(r"json:///dev/null: (\d+) objects .*, (\d+) of flows")


@dataclass(frozen=True, slots=True)
class _Run:
    """``told``: objects that are no flows, over the whole run, as ``connections``."""

    rate: float
    user_us: float
    system_us: float
    told: int
    connections: int
    lost: str


def measure(load: Workload, seconds: float) -> str:
    without, with_events = (_run(load, seconds, options) for options in ((), ("--events",)))
    cost = (with_events.user_us - without.user_us) / _EVENTS
    rows = [
        [name, f"{run.rate:,.0f}", f"{run.user_us:.1f}", f"{run.system_us:.1f}"]
        for name, run in (("flows", without), ("flows and events", with_events))
    ]
    head = ["JSON lines of", "connections/s", "user µs of the probe per connection", "system µs"]
    told = (with_events.told - without.told) / with_events.connections
    return table(head, rows) + (
        f"\n\nOne event: {cost:.2f} µs of user CPU, with reading and writing. Per connection: "
        f"{told:.4f} of {_EVENTS} events; {with_events.lost}."
    )


def _run(load: Workload, seconds: float, options: tuple[str, ...]) -> _Run:
    command = [sys.executable, "-m", "probe", "run", "-e", "json:///dev/null", "--no-docker"]
    rule = ("--include", "cidr=10.78.0.0/24", "--no-nat")
    with network() as net, load.server(net), running([*command, *rule, *options]) as process:
        wait_until(lambda: _is_attached(process), "attaching")
        with load.client(net, "connect") as client:
            time.sleep(_WARM_UP_S)
            began, count, cpu = time.monotonic(), client.operations, process.cpu_time()
            time.sleep(seconds)
            elapsed, opened = time.monotonic() - began, client.operations - count
            after = process.cpu_time()
            total = client.operations
            client.process.stop()
            total = client.operations
        time.sleep(_SETTLE_S)
        process.check()
        process.stop()
        said = process.said()
    found = _OBJECTS.search("\n".join(said))
    if not found:
        raise BenchError(f"no count of objects: {said}")
    progress(f"events: {opened / elapsed:,.0f} connections/s {' '.join(options)}")
    return _Run(
        opened / elapsed,
        (after.user_s - cpu.user_s) / opened * 1e6,
        (after.system_s - cpu.system_s) / opened * 1e6,
        int(found[1]) - int(found[2]),
        total,
        next((line for line in said if "lost:" in line), "it said nothing"),
    )


def _is_attached(process: Started) -> bool:
    """Its loop waits for the collector's epoll file."""
    process.check()
    return sum("tfd" in one for one in descriptors(process.pid)) >= 2
