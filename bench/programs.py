"""Measures the CPU time inside our eBPF programs, which the kernel counts without noise."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from bench.contestants import empty_programs, probe
from bench.network import Network, network
from bench.process import descriptors
from bench.report import progress, table
from bench.sink import sink
from bench.slowdown import WORKLOADS
from bench.workload import Workload

_SWITCH = Path("/proc/sys/kernel/bpf_stats_enabled")
#: Time that the counting adds to each run of a program: two readings of the clock.
_COUNTING_NS = 52
_WARM_UP_S = 1.0
_ITERATORS = ("snapshot_", "attribute_")

#: Attaches the programs, and returns the id of the process that holds them.
Attached = Callable[[Network], AbstractContextManager[int]]


def measure(load: Workload, seconds: float) -> str:
    with _counted_by_kernel():
        rows = [
            [name, *(_shown(load, mode, kind, seconds) for kind in (_empty, _sockflow))]
            for name, mode in WORKLOADS.items()
        ]
    head = ["per operation", "empty programs", "**sockflow**"]
    return table(head, rows) + (
        "\n\nns in the programs, for both ends, without snapshots (share of the CPU time of client "
        "and server); an operation is 64 KiB, a transaction, a connection or a datagram."
    )


def _shown(load: Workload, mode: str, kind: Attached, seconds: float) -> str:
    with (
        network() as net,
        load.server(net) as server,
        kind(net) as pid,
        load.client(net, mode) as client,
    ):
        time.sleep(_WARM_UP_S)
        spent, operations = _program_ns(pid), client.operations
        busy = client.process.run_ns() + server.process.run_ns()
        time.sleep(seconds)
        spent, operations = _program_ns(pid) - spent, client.operations - operations
        busy = client.process.run_ns() + server.process.run_ns() - busy
    progress(f"programs: {mode}: {spent / operations:.0f} ns of {busy / operations:.0f}")
    return f"{spent / operations:,.0f} ({spent / busy:.1%})"


def _program_ns(pid: int) -> int:
    """Returns the run time so far of the process's programs on hooks, in ns.

    Leaves iterators out: they can be preempted, and then the kernel counts other work too.
    """
    listed = subprocess.run(["bpftool", "-j", "prog", "show"], capture_output=True, check=True)
    on_hooks = {
        str(entry["id"])
        for entry in json.loads(listed.stdout)
        if not entry.get("name", "").startswith(_ITERATORS)
    }
    programs = {entry["prog_id"]: entry for entry in descriptors(pid) if "run_cnt" in entry}
    return sum(
        int(entry["run_time_ns"]) - _COUNTING_NS * int(entry["run_cnt"])
        for number, entry in programs.items()
        if number in on_hooks
    )


@contextlib.contextmanager
def _counted_by_kernel() -> Iterator[None]:
    before = _SWITCH.read_text()
    _SWITCH.write_text("1")
    try:
        yield
    finally:
        _SWITCH.write_text(before)


@contextlib.contextmanager
def _empty(net: Network) -> Iterator[int]:
    with empty_programs(net):
        yield os.getpid()


@contextlib.contextmanager
def _sockflow(net: Network) -> Iterator[int]:
    with sink() as target, probe(target) as process:
        yield process.pid
