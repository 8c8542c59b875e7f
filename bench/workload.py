"""Runs the load in ``load/``, which is compiled once and counts in shared memory."""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.network import Network
from bench.process import ROOT, BenchError, Started, running

FIRST_PORT = 7000
UDP_PORT = FIRST_PORT + 65
_PORTS = 66  # of a server
_SPARE_DESCRIPTORS = 200
_MOST_CONNECTIONS = 100_000
_LONGEST_S = 900
_SOURCES = sorted(str(path) for path in (ROOT / "bench" / "load").glob("*.c"))


@dataclass(frozen=True, slots=True)
class Running:
    """One process of the load, and the number of operations that it has done."""

    process: Started
    _counter: mmap.mmap

    @property
    def operations(self) -> int:
        return int(struct.unpack_from("=Q", self._counter)[0])


class Workload:
    """The compiled program, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._program = str(directory / "workload")

    def build(self) -> None:
        done = subprocess.run(
            ["gcc", "-O2", "-Wall", "-Werror", "-o", self._program, *_SOURCES],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise BenchError(f"the load does not compile: {done.stderr}")

    @contextlib.contextmanager
    def server(self, network: Network, first_port: int = FIRST_PORT) -> Iterator[Running]:
        command = network.server.command(*self._command("serve", first_port))
        with self._start("serve", first_port, command, cpu=_last_cpu()) as server:
            server.process.expect("ready")
            yield server

    @contextlib.contextmanager
    def client(self, network: Network, mode: str, rate: int = 0) -> Iterator[Running]:
        """Starts a client. ``mode`` is bulk, request, connect or udp.

        ``rate`` bounds the connections a second of mode connect.
        """
        limit = [str(rate)] if rate else []
        arguments = self._command(mode, FIRST_PORT, network.server.address, *limit)
        with self._start(mode, FIRST_PORT, network.client.command(*arguments), cpu=0) as client:
            yield client

    @contextlib.contextmanager
    def connections(self, network: Network, count: int) -> Iterator[list[Started]]:
        """Opens ``count`` connections with both ends here, for ``exchange``.

        The limit of descriptors decides over how many pairs of processes they are spread.
        """
        with contextlib.ExitStack() as stack:
            clients = []
            for lane, share in enumerate(_shares(count)):
                port = FIRST_PORT + lane * _PORTS
                stack.enter_context(self.server(network, port))
                arguments = self._command("hold", port, network.server.address, str(share))
                command = network.client.command(*arguments)
                clients.append(stack.enter_context(self._start("hold", port, command)).process)
                clients[-1].expect("ready")
            yield clients

    @contextlib.contextmanager
    def sink(self, port: int) -> Iterator[Running]:
        """Starts a process that receives and counts datagrams at a UDP port of the loopback."""
        command = self._command("sink", port)
        with self._start("sink", port, command, cpu=_last_cpu()) as sink:
            sink.process.expect("ready")
            yield sink

    def _command(self, mode: str, port: int, *arguments: str) -> list[str]:
        counter = str(self._counter_path(mode, port))
        return [self._program, mode, counter, str(_LONGEST_S), str(port), *arguments]

    def _counter_path(self, mode: str, port: int) -> Path:
        return self._directory / f"{mode}-{port}.counter"

    @contextlib.contextmanager
    def _start(
        self, mode: str, port: int, command: list[str], cpu: int | None = None
    ) -> Iterator[Running]:
        path = self._counter_path(mode, port)
        path.write_bytes(bytes(mmap.PAGESIZE))
        with (
            path.open("r+b") as file,
            mmap.mmap(file.fileno(), mmap.PAGESIZE) as counter,
            running(command, cpu) as process,
        ):
            yield Running(process, counter)


@contextlib.contextmanager
def workload() -> Iterator[Workload]:
    with tempfile.TemporaryDirectory(prefix="sockflow-bench-") as directory:
        built = Workload(Path(directory))
        built.build()
        yield built


def exchange(clients: list[Started]) -> None:
    """Sends one request and awaits one answer on each of the ``connections``."""
    for client in clients:
        client.tell("")
    for client in clients:
        client.expect("done")


def _shares(count: int) -> list[int]:
    """Divides ``count`` into equal parts, each small enough for the descriptors of a process."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _SPARE_DESCRIPTORS
    parts = -(-count // min(most, _MOST_CONNECTIONS))
    return [count // parts + (part < count % parts) for part in range(parts)]


def _last_cpu() -> int:
    return (os.cpu_count() or 1) - 1
