"""A walk through the interface tables of a host with very many veths: our agent and net-snmp's
side by side, asked in turn by snmpbulkwalk.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.process import BenchError, Started, running, wait_until
from bench.report import progress, table

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_TABLES = ("1.3.6.1.2.1.2", "1.3.6.1.2.1.31")
_REPETITIONS = 50
_SNMPD_PORT, _OUR_PORT = 11621, 11622


@dataclass(slots=True)
class _Agent:
    name: str
    pid: int
    port: int
    varbinds: int = 0
    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def walk(self, namespace: str) -> None:
        cpu, started = _cpu_s(self.pid), time.monotonic()
        self.varbinds = sum(_walk(namespace, self.port, root) for root in _TABLES)
        elapsed = time.monotonic() - started
        self.rates.append(self.varbinds / elapsed)
        self.cpu_us.append((_cpu_s(self.pid) - cpu) / self.varbinds * 1e6)

    def row(self) -> list[str]:
        rate, cpu = statistics.median(self.rates), statistics.median(self.cpu_us)
        return [self.name, f"{self.varbinds:,}", f"{rate:,.0f}", f"{cpu:.1f}", _resident(self.pid)]


def measure(interfaces: int, rounds: int) -> str:
    with (
        _namespace(interfaces) as namespace,
        tempfile.TemporaryDirectory() as folder,
        _snmpd(namespace, Path(folder)) as theirs,
        _sockflow(namespace, folder) as ours,
    ):
        for agent in (theirs, ours):
            agent.walk(namespace)  # caches are warm for both
            agent.rates.clear()
            agent.cpu_us.clear()
        for _ in range(rounds):
            for agent in (theirs, ours):
                agent.walk(namespace)
        rows = [theirs.row(), ours.row()]
        pairs = zip(ours.rates, theirs.rates, strict=True)
        ratio = statistics.median(mine / other for mine, other in pairs)
    head = ["agent", "varbinds", "varbinds/s", "CPU µs per varbind", "VmRSS, MB"]
    return table(head, rows) + (
        f"\n\n{interfaces} veths, ifTable and ifXTable with all columns, snmpbulkwalk -Cr"
        f"{_REPETITIONS}, median of {rounds} walks; rate with us / with snmpd: {ratio:.2f}."
    )


def _walk(namespace: str, port: int, root: str) -> int:
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, "snmpbulkwalk", "-v2c", "-c", "public", "-On", "-OQ",
         f"-Cr{_REPETITIONS}", f"127.0.0.1:{port}", root],
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BenchError(f"snmpbulkwalk: {done.stderr.decode().strip()}")
    return done.stdout.count(b"\n")


@contextlib.contextmanager
def _namespace(interfaces: int) -> Iterator[str]:
    name = f"bench{os.getpid()}snmp"
    progress(f"snmp: making {interfaces} veths")
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        pairs = range(interfaces // 2)
        batch = "".join(f"link add v{n}a type veth peer name v{n}b\n" for n in pairs)
        batch += "link set lo up\n"
        subprocess.run(["ip", "-n", name, "-batch", "-"], input=batch, text=True, check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@contextlib.contextmanager
def _snmpd(namespace: str, folder: Path) -> Iterator[_Agent]:
    config = folder / "snmpd.conf"
    config.write_text("rocommunity public 127.0.0.1\n")
    with running(
        ["ip", "netns", "exec", namespace, "snmpd", "-f", "-Le", "-C", "-c", str(config),
         "-I", "-smux", f"udp:127.0.0.1:{_SNMPD_PORT}"]
    ) as process:  # fmt: skip
        yield _ready(namespace, _Agent("snmpd", process.pid, _SNMPD_PORT), process)


@contextlib.contextmanager
def _sockflow(namespace: str, folder: str) -> Iterator[_Agent]:
    with running(
        ["ip", "netns", "exec", namespace, sys.executable, "-m", "probe", "run", "--no-docker",
         "--collector", "netlink", "-e", f"file://{folder}/flows.ipfix",
         "--snmp", f"127.0.0.1:{_OUR_PORT}"]
    ) as process:  # fmt: skip
        agent = _Agent("**sockflow**", process.pid, _OUR_PORT)
        _ready(namespace, agent, process)
        agent.pid = _child(process.pid)
        yield agent


def _ready(namespace: str, agent: _Agent, process: Started) -> _Agent:
    def answers() -> bool:
        process.check()
        with contextlib.suppress(BenchError):
            return _walk(namespace, agent.port, "1.3.6.1.2.1.1") > 0
        return False

    wait_until(answers, f"an answer of {agent.name}", 30.0)
    return agent


def _child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        if b"probe.snmp" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise BenchError("the probe has no agent")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def _resident(pid: int) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return f"{kib / 1024:.0f}"
