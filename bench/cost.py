"""Measures the CPU time of the probe per Data Record sent, under short connections."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.contestants import probe
from bench.network import network
from bench.process import Started
from bench.report import progress, table
from bench.sink import Sink, sink
from bench.workload import Workload

_WARM_UP_S = 4.0
_DRAIN_S = 0.5
#: Short connections a second. The default pace could not send the records of more.
_RATE = 15_000


@dataclass(frozen=True, slots=True)
class Cost:
    records: int
    elapsed_s: float
    user_s: float
    system_s: float


#: Options of the destination: the default; many messages in a system call; that without a pace.
_QUERIES = ("", "?segmentation=on", "?pace=0")


def measure(load: Workload, seconds: float) -> str:
    said: list[str] = []
    rows = [_one(load, seconds, query, said) for query in _QUERIES]
    head = ["destination", "short connections/s", "Data Records/s", "user µs per record",
            "system µs per record"]  # fmt: skip
    return table(head, rows) + "\n\nThe probe's own words: " + "; ".join(dict.fromkeys(said))


def _one(load: Workload, seconds: float, query: str, said: list[str]) -> list[str]:
    with (
        network() as net,
        load.server(net),
        sink() as target,
        probe(target, query=query) as process,
    ):
        with load.client(net, "connect", _RATE) as client:
            _watch(process, target, _WARM_UP_S)
            opened = client.operations
            cost = _watch(process, target, seconds)
            opened = client.operations - opened
        progress(f"cost: {cost.records} records in {cost.elapsed_s:.1f} s {query}")
    said += [line for line in process.said() if "lost:" in line] or process.said()
    return [
        query or "default",
        f"{opened / cost.elapsed_s:,.0f}",
        f"{cost.records / cost.elapsed_s:,.0f}",
        f"{cost.user_s / cost.records * 1e6:.2f}",
        f"{cost.system_s / cost.records * 1e6:.2f}",
    ]


def _watch(process: Started, target: Sink, seconds: float) -> Cost:
    """Measures the next ``seconds``, and empties the sink meanwhile."""
    target.drain()
    started, records, cpu = time.monotonic(), target.records, process.cpu_time()
    while time.monotonic() < started + seconds:
        time.sleep(_DRAIN_S)
        target.drain()
        process.check()
    after = process.cpu_time()
    return Cost(
        target.records - records,
        time.monotonic() - started,
        after.user_s - cpu.user_s,
        after.system_s - cpu.system_s,
    )
