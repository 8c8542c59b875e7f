"""The programs that are attached and detached while a workload runs."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bench.network import Network
from bench.process import ROOT, BenchError, Started, running, wait_until
from bench.sink import Sink, sink
from bench.workload import UDP_PORT
from probe.kernel import host
from probe.kernel.libbpf import KernelObject

Contestant = Callable[[Network], AbstractContextManager[None]]

EMPTY = ROOT / "bpf" / "empty.bpf.o"

_PMACCTD = """
daemonize: false
pcap_interface: {device}
aggregate: src_host, dst_host, src_port, dst_port, proto, tos, tcpflags
plugins: nfprobe[bench]
nfprobe_receiver: 127.0.0.1:{port}
nfprobe_version: 10
"""


@contextlib.contextmanager
def nothing(network: Network) -> Iterator[None]:
    yield


@contextlib.contextmanager
def softflowd(network: Network) -> Iterator[None]:
    """Runs softflowd with its defaults, exporting IPFIX, on the server's interface."""
    with tempfile.TemporaryDirectory(prefix="sockflow-bench-") as directory:
        command = network.server.command(
            "softflowd", "-d", "-i", network.server.device, "-v", "10",
            "-n", f"127.0.0.1:{UDP_PORT}", "-p", f"{directory}/pid", "-c", f"{directory}/ctl",
        )  # fmt: skip
        with running(command) as process:
            _await_capture(process, network)
            yield


@contextlib.contextmanager
def pmacctd(network: Network) -> Iterator[None]:
    """Runs pmacctd's nfprobe with its defaults, on the server's interface."""
    text = _PMACCTD.format(device=network.server.device, port=UDP_PORT)
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(text)
        file.flush()
        with running(network.server.command("pmacctd", "-f", file.name)) as process:
            _await_capture(process, network)
            yield


@contextlib.contextmanager
def empty_programs(network: Network) -> Iterator[None]:
    """Attaches programs that do nothing to the hooks that the probe uses."""
    kernel = KernelObject(EMPTY)
    cgroup = os.open(host.cgroup_root(), os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, cgroup)
        stack.callback(kernel.close)
        kernel.load()
        for pointer, _, section in kernel.programs():
            in_cgroup = section.startswith("cgroup") or section == "sockops"
            stack.callback(kernel.attach(pointer, cgroup if in_cgroup else None).close)
        yield


@contextlib.contextmanager
def sockflow(network: Network) -> Iterator[None]:
    """Runs the probe as users do: all sockets of both namespaces, exported to a local socket."""
    with sink() as target, probe(target):
        yield


@contextlib.contextmanager
def probe(target: Sink, *arguments: str, query: str = "") -> Iterator[Started]:
    """Runs ``sockflow run`` and waits until it is attached.

    ``query`` has the options of its destination.
    """
    url = target.url + query
    command = [sys.executable, "-m", "probe", "run", "-e", url, "--duration", "600"]
    with running([*command, *arguments]) as process:
        target.wait()
        process.check()
        yield process


CONTESTANTS: dict[str, Contestant] = {
    "nothing (noise)": nothing,
    "softflowd": softflowd,
    "pmacctd (nfprobe)": pmacctd,
    "empty programs": empty_programs,
    "**sockflow**": sockflow,
}


def check_hooks(used: Sequence[str]) -> None:
    """Raises BenchError unless the empty programs sit on the hooks ``used`` by the probe."""
    kernel = KernelObject(EMPTY)
    have = sorted(section for _, _, section in kernel.programs())
    kernel.close()
    if have != sorted(used):
        raise BenchError(f"bpf/empty.bpf.c has {have}, the probe uses {sorted(used)}")


def _await_capture(process: Started, network: Network) -> None:
    """Waits until a packet socket is open in the server's namespace."""
    sockets = Path(f"/proc/{process.pid}/net/packet")

    def captures() -> bool:
        process.check()
        return len(sockets.read_text().splitlines()) > 1

    wait_until(captures, f"capturing on {network.server.device}")
