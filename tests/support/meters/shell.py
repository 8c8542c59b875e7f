"""``python -m probe run`` in front of ``python -m probe collect --json``, as processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.lab.hosts import Host

ROOT = Path(__file__).resolve().parents[3]

Record = dict[str, Any]


class Command:
    """``python -m probe ...``, in a network namespace if need be; ended by SIGTERM."""

    def __init__(self, *arguments: str, host: Host | None = None) -> None:
        # not `ip netns exec`, which hides the cgroup file systems
        inside = ["nsenter", f"--net=/run/netns/{host.name}"] if host else []
        # files and no pipes: nobody reads while it runs
        self._files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        output, errors = self._files
        self.process = subprocess.Popen(
            [*inside, sys.executable, "-m", "probe", *arguments],
            cwd=ROOT, stdout=output, stderr=errors, text=True,
        )  # fmt: skip

    def stop(self) -> tuple[str, str]:
        """Standard output and error."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)
        for file in self._files:
            file.seek(0)
        output, errors = (file.read() for file in self._files)
        assert self.process.returncode == 0, errors
        return output, errors

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for file in self._files:
            file.close()

    def wait_for(self, files: int) -> None:
        """Until it polls so many epoll files: then it listens, or is attached and metering."""
        deadline = time.monotonic() + 120
        while self._epolls() < files:
            assert self.process.poll() is None, "it ended"
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def wait_for_output(self, text: str) -> None:
        """Until it has written ``text`` to standard output."""
        file = self._files[0].fileno()
        deadline = time.monotonic() + 120
        while text not in (found := os.pread(file, 1 << 24, 0).decode()):
            assert time.monotonic() < deadline, found
            time.sleep(0.02)

    def lines(self) -> list[str]:
        """What it has written to standard output by now: whole lines."""
        text = os.pread(self._files[0].fileno(), 1 << 26, 0).decode()
        return text[: text.rfind("\n") + 1].splitlines()

    def wait_for_reading(self, port: int) -> None:
        """Until no datagram waits at the port."""
        queue = re.compile(rf"^ *\d+: \w+:{port:04X} \S+ \S+ \w+:(\w+)", re.MULTILINE)
        tables = [Path(f"/proc/{self.process.pid}/net/{name}") for name in ("udp", "udp6")]
        deadline = time.monotonic() + 120
        while any(
            int(octets, 16) for table in tables for octets in queue.findall(table.read_text())
        ):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def _epolls(self) -> int:
        found = Path(f"/proc/{self.process.pid}/fdinfo")
        try:
            return sum("tfd:" in info.read_text() for info in found.iterdir())
        except OSError:
            return 0


class Shell:
    """A probe that exports to a collector beside it, or in another namespace.

    Without an include rule in ``options`` it meters the tests' hosts and whatever talks to the
    collector: what else happens on this host could fill the queue to it.
    """

    def __init__(
        self, start: Callable[..., Command], *options: str,
        probe: Host | None = None, sink: Host | None = None, at: str = "",
        collect: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.port = free_port()
        target = f"{at or '127.0.0.1'}:{self.port}"
        if "--include" not in options:
            for rule in ("cidr=10.77.0.0/24", "cidr=fd77::/64", f"port={self.port}"):
                options += ("--include", rule)
        self.collector = start("collect", "--listen", target, "--json", *collect, host=sink)
        self.collector.wait_for(1)
        self.probe = start("run", "-e", f"ipfix://{target}", *options, host=probe)
        self.probe.wait_for(2)
        self.summary = ""

    def wait_for(self, are_all: Callable[[list[Record]], object]) -> None:
        """Until the collector has got what is waited for."""
        deadline = time.monotonic() + 120
        while not are_all(found := [json.loads(line) for line in self.collector.lines()]):
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    def finish(self) -> list[Record]:
        """Ends both; all records that arrived."""
        self.summary = self.probe.stop()[1]
        self.collector.wait_for_reading(self.port)
        lines, errors = self.collector.stop()
        print(self.summary, errors)
        assert " 0 records lost on the way, 0 broken messages, 0 sets without" in errors
        return [json.loads(line) for line in lines.splitlines()]

    def left_out(self) -> tuple[int, int]:
        """(flow ends, packets) that the summary says filters left out."""
        found = re.search(r"filters left out: (\d+) flow ends, (\d+) packets", self.summary)
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def own_packets(self) -> int:
        found = re.search(r"own traffic left out: (\d+) packets", self.summary)
        assert found
        return int(found[1])


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Shells:
    """Starts them for one test, and ends what still runs after it."""

    def __init__(self) -> None:
        self._commands: list[Command] = []

    def __call__(self, *options: str, **where: Any) -> Shell:
        return Shell(self.start, *options, **where)

    def close(self) -> None:
        for command in self._commands:
            command.kill()

    def start(self, *arguments: str, host: Host | None = None) -> Command:
        """A command by itself."""
        self._commands.append(Command(*arguments, host=host))
        return self._commands[-1]


@contextlib.contextmanager
def shells() -> Iterator[Shells]:
    assert os.geteuid() == 0, "the kernel tests load eBPF: run them as root"
    found = Shells()
    try:
        yield found
    finally:
        found.close()
