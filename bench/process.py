"""Starts and watches the processes of the benchmark, and stops them in any case."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """Raised when something that the benchmark needs does not happen."""


@dataclass(frozen=True, slots=True)
class CpuTime:
    """User and system time in seconds, which the kernel tells apart by its ticks."""

    user_s: float
    system_s: float


class Started:
    """A running process in a group of its own, so that its children end with it."""

    def __init__(self, command: Sequence[str], cpu: int | None = None) -> None:
        self._command = command
        # a file, because a full pipe would block the process
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            # the process dies with us, even if we are killed
            [*_before_exec(command), "setpriv", "--pdeathsig", "KILL", *_to_exec(command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        if cpu is not None:
            os.sched_setaffinity(self.pid, {cpu})

    @property
    def pid(self) -> int:
        return self._process.pid

    def expect(self, word: str) -> None:
        """Waits for the line ``word``."""
        assert self._process.stdout
        if self._process.stdout.readline().strip() != word:
            raise BenchError(f"{self._command}: no {word!r}; {self._last_words()}")

    def tell(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def check(self) -> None:
        """Raises BenchError if the process has ended."""
        if self._process.poll() is not None:
            raise BenchError(f"{self._command}: ended early; {self._last_words()}")

    def run_ns(self) -> int:
        """Returns the CPU time so far in ns, with softirqs that ran on top of the process."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0])

    def cpu_time(self) -> CpuTime:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return CpuTime(int(fields[11]) * _TICK_S, int(fields[12]) * _TICK_S)

    def memory_kib(self, name: str) -> int:
        """Returns a line of /proc/PID/status in KiB, such as VmRSS."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        raise BenchError(f"no {name} of {self._command}")

    def said(self) -> list[str]:
        """Returns the lines of standard error so far."""
        self._errors.seek(0)
        return self._errors.read().splitlines()

    def stop(self) -> None:
        for number, patience_s in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.communicate(timeout=patience_s)
                return

    def _last_words(self) -> str:
        self.stop()
        return " ".join(self.said()[-4:]) or "it said nothing"


def _before_exec(command: Sequence[str]) -> Sequence[str]:
    """Returns the words in front that start the rest of ``command``: ``ip netns exec NAME``."""
    return command[:4] if command[:3] == ["ip", "netns", "exec"] else ()


def _to_exec(command: Sequence[str]) -> Sequence[str]:
    return command[len(_before_exec(command)) :]


def descriptors(pid: int) -> Iterator[dict[str, str]]:
    """Yields the fdinfo of each open descriptor, which for eBPF maps and programs has details."""
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            lines = path.read_text().splitlines()
            yield {key: text.strip() for key, _, text in (line.partition(":") for line in lines)}


@contextlib.contextmanager
def running(command: Sequence[str], cpu: int | None = None) -> Iterator[Started]:
    process = Started(command, cpu)
    try:
        yield process
    finally:
        process.stop()


def wait_until(condition: Callable[[], bool], what: str, patience_s: float = 10.0) -> None:
    """Raises BenchError naming ``what`` after ``patience_s``."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"{what} did not happen in {patience_s:g} s")
        time.sleep(0.01)
