"""Measures the resident memory of the probe, and that of its maps in the kernel."""

from __future__ import annotations

import contextlib
import time

from bench.contestants import probe
from bench.network import SUBNET, network
from bench.process import Started, descriptors
from bench.report import progress, table
from bench.sink import sink
from bench.workload import Workload, exchange
from probe.kernel.libbpf import KernelObject
from probe.sources.ebpf import OBJECT

#: Exports often, so that the memory for encoding and sending is included. Meters the load alone.
_OPTIONS = ("--active-timeout", "2", "--include", f"cidr={SUBNET}")
_ROUNDS = 4
_INTERVAL_S = 1.5
_SK_STORAGE = "24"  # enum bpf_map_type
#: bpf_local_storage_elem before the value, and bpf_local_storage of each socket (6.x kernels).
_ELEMENT_HEADER, _SOCKET_STORAGE = 64, 192


def measure(load: Workload, counts: list[int]) -> str:
    rows = [_one(load, count) for count in counts]
    head = ["live flows (joined, both ends local)", "VmRSS", "peak (VmHWM)", "kernel: maps",
            "kernel: socket storage (computed)"]  # fmt: skip
    return table(head, rows) + (
        "\n\nEvery flow has traffic and is due every 2 s, "
        "or as often as the default pace lets it leave."
    )


def _one(load: Workload, count: int) -> list[str]:
    with contextlib.ExitStack() as stack:
        net, target = stack.enter_context(network()), stack.enter_context(sink())
        process = stack.enter_context(probe(target, *_OPTIONS))
        clients = stack.enter_context(load.connections(net, count))
        for _ in range(_ROUNDS):
            exchange(clients)
            time.sleep(_INTERVAL_S)
            target.drain()
        resident, peak = process.memory_kib("VmRSS"), process.memory_kib("VmHWM")
        maps, value = _map_memory(process)
    progress(f"memory: {count} flows, {resident} KiB, {target.records} records")
    stored = max(0, 2 * count - KernelObject(OBJECT).map_entries("slots"))  # the others have slots
    storage = stored * (_slab(value + _ELEMENT_HEADER) + _SOCKET_STORAGE)
    return [f"{count:,}", _mb(resident << 10), _mb(peak << 10), _mb(maps), _mb(storage)]


def _map_memory(process: Started) -> tuple[int, int]:
    """Returns the octets of all maps (memlock of `bpftool map`), and of one socket's value."""
    total = value = 0
    maps = {entry["map_id"]: entry for entry in descriptors(process.pid) if "map_type" in entry}
    for entry in maps.values():
        total += int(entry["memlock"])
        if entry["map_type"] == _SK_STORAGE:
            value = int(entry["value_size"])
    return total, value


def _slab(octets: int) -> int:
    """Returns the octets that kmalloc gives for a request."""
    sizes = (96, 128, 192, 256, 512, 1024, 2048, 4096)
    return next(size for size in sizes if size >= octets)


def _mb(octets: int) -> str:
    return f"{octets / 1e6:.1f} MB"
