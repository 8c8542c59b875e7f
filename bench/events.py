"""Measures lifecycle events under short connections: whether any is lost, and their cost.

The probe writes JSON lines to /dev/null, once with flows only and once with events too. The
difference is the cost of reading, sorting, filtering, encoding and writing events. Where the cores
cannot serve 20 000 connections a second, connects without a route give as many events.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.network import network
from bench.process import BenchError, CpuTime, Started, descriptors, running, wait_until
from bench.report import progress, table
from bench.workload import Workload

_WARM_UP_S = 3.0
_SETTLE_S = 2.5
#: Events of a connection between two local ends: CONNECT, ACCEPT, and CLOSE of each end.
_EVENTS = 4
_OBJECTS = re.compile(r"json:///dev/null: (\d+) objects .*, (\d+) of flows")


@dataclass(frozen=True, slots=True)
class _Run:
    """One run; ``told`` counts the objects that are not flows, ``connections`` the connections."""

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
    fast = _run_unreachable(load, seconds)
    return table(head, rows) + (
        f"\n\nOne event: {cost:.2f} µs of user CPU, with reading and writing. Per connection: "
        f"{told:.4f} of {_EVENTS} events; {with_events.lost}."
        f"\n\nConnects without a route, {fast.rate:,.0f} events/s: {fast.user_us:.2f} µs of user "
        f"CPU and {fast.system_us:.2f} of system for an event; {fast.told} objects for "
        f"{fast.connections} of them; {fast.lost}."
    )


def _run(load: Workload, seconds: float, options: tuple[str, ...]) -> _Run:
    with network() as net, load.server(net), _probe("10.78.0.0/24", *options) as process:
        with load.client(net, "connect") as client:
            time.sleep(_WARM_UP_S)
            began, count, cpu = time.monotonic(), client.operations, process.cpu_time()
            time.sleep(seconds)
            elapsed, opened = time.monotonic() - began, client.operations - count
            after = process.cpu_time()
            client.process.stop()
            total = client.operations
        progress(f"events: {opened / elapsed:,.0f} connections/s {' '.join(options)}")
        spent = CpuTime(after.user_s - cpu.user_s, after.system_s - cpu.system_s)
        return _finish(process, opened / elapsed, spent, opened, total)


def _run_unreachable(load: Workload, seconds: float) -> _Run:
    with network() as net, _probe("203.0.113.0/24", "--events") as process:
        cpu = process.cpu_time()
        with load.client(net, "unreachable") as client:
            time.sleep(seconds)
            client.process.stop()
            done = client.operations
        time.sleep(_SETTLE_S)
        after = process.cpu_time()
        progress(f"events: {done / seconds:,.0f} a second without a route")
        spent = CpuTime(after.user_s - cpu.user_s, after.system_s - cpu.system_s)
        return _finish(process, done / seconds, spent, done, done)


@contextlib.contextmanager
def _probe(cidr: str, *options: str) -> Iterator[Started]:
    command = [sys.executable, "-m", "probe", "run", "-e", "json:///dev/null", "--no-docker"]
    with running([*command, "--no-nat", "--include", f"cidr={cidr}", *options]) as process:
        wait_until(lambda: _is_attached(process), "attaching")
        yield process


def _finish(process: Started, rate: float, spent: CpuTime, count: int, total: int) -> _Run:
    """Ends the probe, reads its summary, and returns figures per each of ``count``."""
    time.sleep(_SETTLE_S)
    process.check()
    process.stop()
    said = process.said()
    found = _OBJECTS.search("\n".join(said))
    if not found:
        raise BenchError(f"no count of objects: {said}")
    return _Run(
        rate,
        spent.user_s / count * 1e6,
        spent.system_s / count * 1e6,
        int(found[1]) - int(found[2]),
        total,
        next((line for line in said if "lost:" in line), "it said nothing"),
    )


def _is_attached(process: Started) -> bool:
    """Returns True once the loop of the probe waits for the epoll file of its source."""
    process.check()
    return sum("tfd" in one for one in descriptors(process.pid)) >= 2
