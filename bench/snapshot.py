"""Measures one pass of the eBPF source over all live sockets."""

from __future__ import annotations

import statistics

from bench.contestants import check_hooks
from bench.network import network
from bench.report import progress, table
from bench.workload import Workload, exchange
from probe.flow.owner import OwnerTable
from probe.owners.users import UserNames
from probe.sources.ebpf import EbpfSource


def measure(load: Workload, counts: list[int], passes: int) -> str:
    rows = [_one(load, count, passes) for count in counts]
    head = ["live sockets", "rows", "all active: median (best), ms", "none active, ms"]
    return table(head, rows)


def _one(load: Workload, sockets: int, passes: int) -> list[str]:
    collector = EbpfSource(OwnerTable(), UserNames())
    active, idle, rows = [], [], 0
    with network() as net, load.connections(net, sockets // 2) as clients:
        collector.open()
        try:
            check_hooks(collector.hooks)
            for _ in range(passes):
                exchange(clients)
                rows = len(collector.read())
                active.append(collector.snapshot_ns / 1e6)
                collector.read()
                idle.append(collector.snapshot_ns / 1e6)
        finally:
            collector.close()
    progress(f"snapshot: {sockets} sockets, {active} ms")
    return [f"{sockets:,}", f"{rows:,}", f"{statistics.median(active):.1f} ({min(active):.1f})",
            f"{statistics.median(idle):.1f}"]  # fmt: skip
