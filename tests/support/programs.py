"""Runs processes that end with the test, such as the probe, and waits until they are ready."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOCKFLOW = (sys.executable, "-m", "probe")
LOOPBACK = "127.0.0.1"
_PATIENCE_S = 120.0
#: Prefix for a program that refuses root: it is nobody, and may still read root's files.
AS_NOBODY = ("unshare", "--user", "--map-user=65534", "--map-group=65534")
_SO_RCVBUFFORCE = 33
_TCP_LISTEN = "0A"  # in /proc/net/tcp (include/net/tcp_states.h)
#: Octets a second, slow enough for a collector that waits for a core of a busy machine.
_PACE = 300_000


class Program:
    """A child whose output is in ``folder``; it is always reaped, and killed if it does not end."""

    def __init__(self, command: Sequence[object], folder: Path, name: str) -> None:
        self.name = name
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdout=out, stderr=err, cwd=ROOT, process_group=0
            )

    @property
    def output(self) -> str:
        return self._out.read_text()

    @property
    def errors(self) -> str:
        return self._err.read_text()

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stops the program if it still runs, and returns its exit status."""
        if self.is_alive():
            self.process.send_signal(number)
        return self.process.wait(_PATIENCE_S)

    def end(self) -> None:
        """Kills what is left, with children: nfacctd's plugins would outlive it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running(command: Sequence[object], folder: Path, name: str) -> Iterator[Program]:
    program = Program(command, folder, name)
    try:
        yield program
    finally:
        program.end()


class Datagrams:
    """A socket that the probe exports to, and all datagrams that arrived.

    The first one shows that the probe has attached and read the kernel once.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
        self._socket.bind((LOOPBACK, 0))
        self.port: int = self._socket.getsockname()[1]
        self.received: list[bytes] = []

    def wait(self) -> None:
        """Waits for a datagram."""
        self._socket.settimeout(_PATIENCE_S)
        self.received.append(self._socket.recv(65535))

    def read(self) -> list[bytes]:
        """Returns all datagrams that ever arrived."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.received.append(self._socket.recv(65535))
        return self.received

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def probing(folder: Path, *options: object, name: str = "probe") -> Iterator[Program]:
    """Runs ``sockflow run`` with ``options`` until the block ends; it meters on return."""
    with contextlib.closing(Datagrams()) as first:
        command = (*SOCKFLOW, "run", "-e", ipfix(first.port), *options)
        with running(command, folder, name) as probe:
            try:
                first.wait()
            except TimeoutError:
                raise AssertionError(f"the probe sent nothing: {probe.errors}") from None
            yield probe


def ipfix(port: int, host: str = LOOPBACK, pace: int = _PACE) -> str:
    return f"ipfix://{host}:{port}?pace={pace}"


def export_url(port: int, host: str = LOOPBACK, version: int = 10) -> str:
    return f"{'netflow9' if version == 9 else 'ipfix'}://{host}:{port}?pace={_PACE}"


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    """Returns a port that is free at this moment."""
    with socket.socket(socket.AF_INET, kind) as found:
        found.bind((LOOPBACK, 0))
        port: int = found.getsockname()[1]
        return port


def wait_until(true: Callable[[], object], what: str, patience_s: float = _PATIENCE_S) -> None:
    end = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.02)


def queued(port: int) -> tuple[int, int] | None:
    """Returns (octets that wait, datagrams lost) at a UDP port, None if nobody listens."""
    for family in ("udp", "udp6"):
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
            words = line.split()
            if int(words[1].partition(":")[2], 16) == port:
                return int(words[4].partition(":")[2], 16), int(words[-1])
    return None


def is_listening(port: int) -> bool:
    """Returns True if a socket listens at TCP ``port``, without connecting to it."""
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == _TCP_LISTEN and int(words[1].partition(":")[2], 16) == port:
                return True
    return False


def wait_for_listener(port: int) -> None:
    wait_until(lambda: queued(port) is not None, f"a listener at UDP port {port}")


def wait_for_reader(port: int) -> None:
    """Waits until the listener has read all datagrams; asserts that none was lost."""
    wait_until(lambda: (queued(port) or (1, 0))[0] == 0, f"the reader of UDP port {port}")
    assert queued(port) == (0, 0), "(octets waiting, datagrams lost)"


def kernel_ids(pid: int) -> set[tuple[str, str]]:
    """Returns ('link' | 'prog' | 'map', id) of every eBPF object of the process."""
    found = set()
    for entry in os.scandir(f"/proc/{pid}/fdinfo"):
        for line in Path(entry.path).read_text().splitlines():
            name, _, number = line.partition(":")
            if name in ("link_id", "prog_id", "map_id"):
                found.add((name.removesuffix("_id"), number.strip()))
    return found


def is_in_kernel(kind: str, number: str) -> bool:
    command = ("bpftool", kind, "show", "id", number)
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
