"""Measures one pass of the Netlink source over all live sockets."""

from __future__ import annotations

import resource
import statistics
from dataclasses import dataclass, field

from bench.network import network
from bench.report import progress, table
from bench.workload import Workload, exchange
from probe.flow.owner import OwnerTable
from probe.owners.users import UserNames
from probe.sources.netlink import NetlinkSource


@dataclass(slots=True)
class Passes:
    """Milliseconds of each pass: wall time and user CPU time."""

    elapsed: list[float] = field(default_factory=list)
    user: list[float] = field(default_factory=list)

    def read(self, collector: NetlinkSource) -> int:
        """Reads the rows of one pass."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        rows = len(collector.read())
        self.user.append((resource.getrusage(resource.RUSAGE_SELF).ru_utime - before) * 1e3)
        self.elapsed.append(collector.snapshot_ns / 1e6)
        return rows

    def show(self) -> str:
        return (
            f"{statistics.median(self.elapsed):.0f} ({min(self.elapsed):.0f}), "
            f"user {statistics.median(self.user):.0f}"
        )


def measure(load: Workload, counts: list[int], passes: int) -> str:
    rows = [_one(load, count, passes) for count in counts]
    head = ["live sockets", "rows", "none active: median (best), ms", "all active"]
    return table(head, rows)


def _one(load: Workload, sockets: int, passes: int) -> list[str]:
    collector = NetlinkSource(OwnerTable(), UserNames())
    active, idle, rows = Passes(), Passes(), 0
    with network() as net, load.connections(net, sockets // 2) as clients:
        collector.open()
        try:
            for _ in range(passes):
                exchange(clients)
                rows = max(rows, active.read(collector))
                collector.read()  # finds the owners that the pass before had no time for
                idle.read(collector)
        finally:
            collector.close()
    progress(f"netlink: {sockets} sockets, idle {idle.elapsed}, active {active.elapsed} ms")
    return [f"{sockets:,}", f"{rows:,}", idle.show(), active.show()]
