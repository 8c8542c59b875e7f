"""Measures a walk through the interface tables of a host with very many veths.

snmpbulkwalk asks our agent and that of net-snmp in turn. Meanwhile the delays of the probe's ticks
are measured.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.process import BenchError, Started, running, wait_until
from bench.report import progress, table

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_TABLES = ("1.3.6.1.2.1.2", "1.3.6.1.2.1.31")
_REPETITIONS = 50
_QUIET_S = 5.0
_SNMPD_PORT, _OUR_PORT, _METRICS_PORT = 11621, 11622, 11623
_V2C = ("-v2c", "-c", "public")
_V3 = ("-v3", "-l", "authPriv", "-u", "bench", "-a", "SHA-256", "-A", "authpass12",
       "-x", "AES", "-X", "privpass12")  # fmt: skip
_CONFIG = f"""
docker = false
interval = 0.05
prometheus = "127.0.0.1:{_METRICS_PORT}"
[snmp]
listen = "127.0.0.1:{_OUR_PORT}"
communities = ["public"]
[[snmp.users]]
name = "bench"
auth = "sha256"
auth-key = "authpass12"
priv = "aes"
priv-key = "privpass12"
"""
_SNMPD_CONFIG = """
rocommunity public 127.0.0.1
createUser bench SHA-256 authpass12 AES privpass12
rouser bench
"""
_FETCH = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
_DELAY = re.compile(r'^sockflow_tick_delay_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)
_LONGEST_DELAY_S = 0.1


@dataclass(slots=True)
class _Agent:
    name: str
    pid: int
    port: int
    how: tuple[str, ...] = _V2C
    varbinds: int = 0
    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def walk(self, namespace: str) -> None:
        cpu, started = _cpu_s(self.pid), time.monotonic()
        self.varbinds = sum(_walk(namespace, self, root) for root in _TABLES)
        elapsed = time.monotonic() - started
        self.rates.append(self.varbinds / elapsed)
        self.cpu_us.append((_cpu_s(self.pid) - cpu) / self.varbinds * 1e6)

    def row(self) -> list[str]:
        rate, cpu = statistics.median(self.rates), statistics.median(self.cpu_us)
        return [self.name, f"{self.varbinds:,}", f"{rate:,.0f}", f"{cpu:.1f}", _resident(self.pid)]


@dataclass(frozen=True, slots=True)
class _Delays:
    """Delays of ticks; ``counts`` maps an upper bound in seconds to a number of ticks."""

    counts: dict[float, int]

    def since(self, before: _Delays) -> _Delays:
        return _Delays({bound: n - before.counts[bound] for bound, n in self.counts.items()})

    def __str__(self) -> str:
        total = self.counts[float("inf")]
        over = total - self.counts[_LONGEST_DELAY_S]
        bound = next(bound for bound, count in sorted(self.counts.items()) if count == total)
        return f"{over} of {total} by more than {_LONGEST_DELAY_S * 1e3:.0f} ms, all within " + (
            f"{bound * 1e3:g} ms"
        )


def measure(interfaces: int, rounds: int) -> str:
    with (
        _namespace(interfaces) as namespace,
        tempfile.TemporaryDirectory() as folder,
        _snmpd(namespace, Path(folder)) as theirs,
        _sockflow(namespace, Path(folder)) as ours,
    ):
        agents = (theirs, ours)
        for agent in agents:
            agent.walk(namespace)  # warms the caches for both
            agent.rates.clear()
            agent.cpu_us.clear()
        before = _delays(namespace)
        time.sleep(_QUIET_S)
        quiet = _delays(namespace)
        _walk_in_turn(namespace, agents, rounds)
        walked = _delays(namespace)
        encrypted = [replace(one, name=f"{one.name}, v3 authPriv", how=_V3, rates=[], cpu_us=[])
                     for one in agents]  # fmt: skip
        _walk_in_turn(namespace, encrypted, max(1, rounds // 3))
        rows = [agent.row() for agent in (*agents, *encrypted)]
        pairs = zip(ours.rates, theirs.rates, strict=True)
        ratio = statistics.median(mine / other for mine, other in pairs)
    head = ["agent", "varbinds", "varbinds/s", "CPU µs per varbind", "VmRSS, MB"]
    return table(head, rows) + (
        f"\n\n{interfaces} veths, ifTable and ifXTable with all columns, snmpbulkwalk -Cr"
        f"{_REPETITIONS}, median of {rounds} walks ({max(1, rounds // 3)} of version 3); rate with "
        f"us / with snmpd: {ratio:.2f}. Ticks of the probe that began late: "
        f"{walked.since(quiet)}; in {_QUIET_S:g} s before, when nobody asked: "
        f"{quiet.since(before)}."
    )


def _walk_in_turn(namespace: str, agents: Sequence[_Agent], rounds: int) -> None:
    for _ in range(rounds):
        for agent in agents:
            agent.walk(namespace)


def _delays(namespace: str) -> _Delays:
    url = f"http://127.0.0.1:{_METRICS_PORT}/metrics"
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, sys.executable, "-c", _FETCH, url],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return _Delays({float(le): round(float(n)) for le, n in _DELAY.findall(done.stdout)})


def _walk(namespace: str, agent: _Agent, root: str) -> int:
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, "snmpbulkwalk", *agent.how, "-On", "-OQ",
         f"-Cr{_REPETITIONS}", f"127.0.0.1:{agent.port}", root],
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
    config.write_text(_SNMPD_CONFIG)
    with running(
        ["ip", "netns", "exec", namespace, "env", f"SNMP_PERSISTENT_DIR={folder}", "snmpd", "-f",
         "-Le", "-C", "-c", str(config), "-I", "-smux", f"udp:127.0.0.1:{_SNMPD_PORT}"]
    ) as process:  # fmt: skip
        yield _ready(namespace, _Agent("snmpd", process.pid, _SNMPD_PORT), process)


@contextlib.contextmanager
def _sockflow(namespace: str, folder: Path) -> Iterator[_Agent]:
    config = folder / "sockflow.toml"
    config.write_text(_CONFIG)
    with running(  # nsenter: ip-netns(8) would hide the cgroups, which eBPF needs
        ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-m", "probe", "run",
         "--config", str(config), "-e", f"file://{folder}/flows.ipfix"]
    ) as process:  # fmt: skip
        agent = _Agent("**sockflow**", process.pid, _OUR_PORT)
        _ready(namespace, agent, process)
        agent.pid = _child(process.pid)
        yield agent


def _ready(namespace: str, agent: _Agent, process: Started) -> _Agent:
    def answers() -> bool:
        process.check()
        with contextlib.suppress(BenchError):
            return _walk(namespace, agent, "1.3.6.1.2.1.1") > 0
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
