"""Measures how much a contestant slows other programs down.

Contestants are attached to one long workload and detached again, in random order. Each window with
a contestant is compared with its two neighbours without any, so drift and noise affect both sides
alike. "nothing against nothing" shows the noise that remains. A window in which other processes
were busy is measured again, a few times at most.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bench.contestants import CONTESTANTS
from bench.network import network
from bench.quiet import foreign_cpu_s
from bench.report import progress, table
from bench.workload import Running, Workload

WORKLOADS = {
    "bulk TCP": "bulk",
    "request/response": "request",
    "short connections": "connect",
    "UDP 100 B": "udp",
}
_WARM_UP_S = 1.5
_SETTLE_S = 0.3
#: The share of one core that others may use in a window.
_QUIET = 0.03


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of the workload.

    ``cpu_ns`` is the CPU time of client and server together, per operation. ``foreign`` is the
    number of cores that others used.
    """

    rate: float
    cpu_ns: float
    foreign: float


@dataclass(frozen=True, slots=True)
class Ratios:
    """The rate with a contestant over the rate without, one for each pair of windows."""

    rate: list[float]
    cpu: list[float]


def measure(load: Workload, pairs: int, window_s: float, attempts: int) -> str:
    """Measures all pairs; a window that others disturb gets ``attempts`` attempts."""
    results = {
        name: _one_workload(load, mode, pairs, partial(_window, window_s, attempts))
        for name, mode in WORKLOADS.items()
    }
    return "\n\n".join(
        [
            f"Rate with / without, median (quartiles) of {pairs} pairs of {window_s:g} s; both "
            "ends of every flow are on this host.",
            _table(results, "rate"),
            "CPU time of client and server per operation, with / without (lower is better; the "
            "contestant's own processes are not in it).",
            _table(results, "cpu"),
        ]
    )


def _table(results: dict[str, dict[str, Ratios]], attribute: str) -> str:
    rows = [
        [name, *(_shown(result[name], attribute) for result in results.values())]
        for name in CONTESTANTS
    ]
    return table(["", *results], rows)


def _shown(ratios: Ratios, attribute: str) -> str:
    values = getattr(ratios, attribute)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.3f} ({low:.2f}–{high:.2f})"


def _one_workload(
    load: Workload, mode: str, pairs: int, measured: Callable[[Running, Running], Window]
) -> dict[str, Ratios]:
    with network() as net, load.server(net) as server, load.client(net, mode) as client:
        time.sleep(_WARM_UP_S)
        without = [measured(client, server)]
        order: list[str] = []
        found: list[Window] = []
        for round_number in range(pairs):
            for name in random.sample(list(CONTESTANTS), len(CONTESTANTS)):
                with CONTESTANTS[name](net):
                    found.append(measured(client, server))
                order.append(name)
                without.append(measured(client, server))
            progress(f"{mode}: round {round_number + 1} of {pairs}, {without[-1].rate:.0f}/s")
    busy = sum(window.foreign >= _QUIET for window in without + found)
    progress(f"{mode}: others were busy in {busy} of {len(without + found)} windows")
    return {name: _compare(name, order, found, without) for name in CONTESTANTS}


def _window(window_s: float, most: int, client: Running, server: Running) -> Window:
    """Returns the first quiet window of some attempts, else the quietest."""
    attempts: list[Window] = []
    while len(attempts) < most:
        time.sleep(_SETTLE_S)
        attempts.append(_attempt(window_s, client, server))
        if attempts[-1].foreign < _QUIET:
            break
    return min(attempts, key=lambda window: window.foreign)


def _attempt(window_s: float, client: Running, server: Running) -> Window:
    client.process.check()
    foreign_s = foreign_cpu_s()
    started, operations, run_ns = time.monotonic(), client.operations, _run_ns(client, server)
    time.sleep(window_s)
    done = client.operations - operations
    elapsed = time.monotonic() - started
    cpu_ns = (_run_ns(client, server) - run_ns) / max(1, done)
    return Window(done / elapsed, cpu_ns, (foreign_cpu_s() - foreign_s) / elapsed)


def _run_ns(client: Running, server: Running) -> int:
    return client.process.run_ns() + server.process.run_ns()


def _compare(
    name: str, order: Sequence[str], found: Sequence[Window], without: Sequence[Window]
) -> Ratios:
    """Returns the ratios; ``found[i]`` lies between ``without[i]`` and ``without[i + 1]``."""
    places = [place for place, other in enumerate(order) if other == name]
    return Ratios(
        [2 * found[i].rate / (without[i].rate + without[i + 1].rate) for i in places],
        [2 * found[i].cpu_ns / (without[i].cpu_ns + without[i + 1].cpu_ns) for i in places],
    )
