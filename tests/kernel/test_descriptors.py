"""Tests a probe with few descriptors: it meters what it can, and reports what it cannot."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_NAMESPACES = 40
_PATIENCE_S = 120


@pytest.fixture
def many_namespaces() -> Iterator[None]:
    """Makes namespaces, each with a sleeping process."""
    sleepers = [subprocess.Popen(["unshare", "--net", "sleep", "600"]) for _ in range(_NAMESPACES)]
    yield
    for sleeper in sleepers:
        sleeper.kill()
        sleeper.wait()


def test_more_namespaces_than_descriptors(many_namespaces: None, tmp_path: Path) -> None:
    """Six hundred of them used to end the probe with too many open files."""
    log, flows = tmp_path / "log", tmp_path / "flows.json"
    command = ["prlimit", "--nofile=300:300", sys.executable, "-m", "probe", "run", "--no-docker",
               "--collector", "netlink", "--active-timeout", "1",
               "-e", f"json://{flows}"]  # fmt: skip
    with log.open("w") as file:
        probe = subprocess.Popen(command, cwd=ROOT, stderr=file)
    deadline = time.monotonic() + _PATIENCE_S
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            while str(port) not in (flows.read_text() if flows.exists() else ""):
                assert probe.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                with socket.create_connection(("127.0.0.1", port)) as one:
                    one.sendall(b"x" * 100)
                    time.sleep(0.2)
    finally:
        probe.terminate()
        assert probe.wait(_PATIENCE_S) == 0, log.read_text()
    said = re.search(r"(\d+) network namespaces are not looked into: the limit of 300 open files",
                     log.read_text())  # fmt: skip
    assert said, log.read_text()
    assert int(said[1]) >= _NAMESPACES - 15


def test_standard_streams_that_are_closed(tmp_path: Path) -> None:
    """With closed streams, another descriptor could become number 1.

    Netlink's socket once got what was written to standard output.
    """
    flows = tmp_path / "flows.ipfix"
    words = " ".join([sys.executable, "-m", "probe", "run", "--no-docker", "--duration", "2",
                      "-e", f"file://{flows}", "-e", "json:-"])  # fmt: skip
    done = subprocess.run(["sh", "-c", f"exec {words} <&- >&- 2>&-"], cwd=ROOT, timeout=300)
    assert done.returncode == 0
    assert flows.stat().st_size > 0
    read = subprocess.run(
        [sys.executable, "-m", "probe", "collect", "--json", "--read", str(flows)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert all(json.loads(line) for line in read.stdout.splitlines())


def test_the_soft_limit_of_open_files_is_raised(tmp_path: Path) -> None:
    command = ["prlimit", "--nofile=64:4096", sys.executable, "-m", "probe", "run", "--no-docker",
               "--duration", "5", "-e", f"file://{tmp_path}/flows.ipfix"]  # fmt: skip
    probe = subprocess.Popen(command, cwd=ROOT)
    try:
        while not re.search(r"Max open files +4096 +4096", limits(probe.pid)):
            assert probe.poll() is None
            time.sleep(0.05)
    finally:
        assert probe.wait(_PATIENCE_S) == 0


def limits(pid: int) -> str:
    return Path(f"/proc/{pid}/limits").read_text()
