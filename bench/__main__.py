"""``python -m bench``: runs every measurement and prints Markdown."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable

from bench import (
    cost,
    events,
    idle,
    lines,
    memory,
    names,
    netlink,
    ntopng,
    programs,
    rate,
    slowdown,
    snapshot,
    snmp,
)
from bench.process import ROOT, BenchError
from bench.workload import Workload, workload

Section = Callable[[Workload, argparse.Namespace], str]

_SECTIONS: dict[str, tuple[str, Section]] = {
    "slowdown": (
        "Slow-down",
        lambda load, options: slowdown.measure(
            load,
            options.pairs or (3 if options.quick else 9),
            0.4 if options.quick else 1.0,
            options.attempts,
        ),
    ),
    "programs": (
        "CPU time in the kernel programs",
        lambda load, options: programs.measure(load, 1.5 if options.quick else 4.0),
    ),
    "cost": (
        "CPU time of the probe",
        lambda load, options: cost.measure(load, 5.0 if options.quick else 20.0),
    ),
    "memory": (
        "Memory",
        lambda load, options: memory.measure(load, [0, 1000] + [65536] * (not options.quick)),
    ),
    "names": (
        "Memory with the names of containers",
        lambda _, options: names.measure(500 if options.quick else 5000),
    ),
    "idle": (
        "A host that does nothing",
        lambda _, options: idle.measure(15.0 if options.quick else 60.0),
    ),
    "snapshot": (
        "Snapshot of live sockets",
        lambda load, options: snapshot.measure(
            load, [10_000] if options.quick else [10_000, 50_000, 100_000], 7
        ),
    ),
    "netlink": (
        "Pass of the Netlink collector over live sockets",
        lambda load, options: netlink.measure(
            load, [10_000] if options.quick else [10_000, 50_000, 100_000], 5
        ),
    ),
    "snmp": (
        "A walk through the interface tables",
        lambda _, options: snmp.measure(1000, 3 if options.quick else 9),
    ),
    "rate": (
        "Export rate into a local socket, pacing off, on one core",
        lambda load, options: rate.measure(load, 0.5 if options.quick else 2.0),
    ),
    "json": (
        "JSON lines",
        lambda load, options: lines.measure(load, 0.5 if options.quick else 2.0),
    ),
    "events": (
        "Lifecycle events",
        lambda load, options: events.measure(load, 4.0 if options.quick else 15.0),
    ),
    "ntopng": (
        "TLV flows for ntopng over ZMQ, both directions in one",
        lambda load, options: ntopng.measure(load, 1.0 if options.quick else 4.0),
    ),
}


def main() -> int:
    options = _parse()
    if os.geteuid():
        print("bench: namespaces and eBPF need root: run `make bench`", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # with all that is to be undone
    try:
        _run(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute; figures are rough")
    parser.add_argument("--pairs", type=int, help="pairs of windows per contestant (default 9)")
    parser.add_argument(
        "--attempts", type=int, default=3, help="at a window that others disturb (default 3)"
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(_SECTIONS))
    options = parser.parse_args()
    unknown = set(options.sections) - set(_SECTIONS)
    if unknown:
        parser.error(f"unknown section {', '.join(unknown)}")
    if options.pairs is not None and options.pairs < 2:
        parser.error("--pairs: at least 2")
    options.attempts = max(1, options.attempts)
    return options


def _run(options: argparse.Namespace) -> None:
    subprocess.run(["make", "--silent", "-C", str(ROOT / "bpf"), "empty.bpf.o"], check=True)
    print(f"Measured on {os.cpu_count()} cores ({_processor()}), Linux {platform.release()}.")
    with workload() as load:
        for name, (title, measure) in _SECTIONS.items():
            if not options.sections or name in options.sections:
                print(f"\n### {title}\n\n{measure(load, options)}", flush=True)


def _processor() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
