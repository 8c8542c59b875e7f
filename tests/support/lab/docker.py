"""Runs a Docker daemon in a network namespace of its own, with bridge, NAT and proxies.

Its state is in a temporary directory and its mounts in a mount namespace. So nothing of it outlives
the tests, and a daemon of the host is not disturbed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from tests.support.lab.hosts import Host, run
from tests.support.meters.actors import Actor

IMAGE = "sockflow-test"
#: The network namespace of the tests, which can reach what this machine reaches.
_OURS = "/proc/self/ns/net"
_Engine = TypeVar("_Engine", bound="Engine")
_START_S = 30.0
_STOP_S = 15.0
#: The parents that Docker makes for its containers in each hierarchy, and does not remove.
_CGROUPS = Path("/sys/fs/cgroup")


class Engine:
    """A daemon in the network namespace at a path, and its command line."""

    def __init__(self, directory: Path, namespace: str, *options: str) -> None:
        self.socket = directory / "socket"
        self.url = f"unix://{self.socket}"
        # a short path: containerd adds to it, and refuses a socket whose path has over 104 octets
        self._exec_root = Path(tempfile.mkdtemp(prefix="docker-"))
        #: Folders that processes and mounts of the daemon have in their names.
        self.folders = (directory, self._exec_root)
        self._directory = directory
        self._namespace = namespace
        self._options = ("--exec-root", str(self._exec_root), *options)
        self._command = ("docker", "-H", self.url)
        self._daemon = _start_daemon(directory, namespace, self._options)

    def __call__(self, *arguments: str, **options: object) -> str:
        return run(*self._command, *arguments, **options).stdout.strip()

    def wait_until_up(self) -> None:
        _wait_until_up(self, self._daemon, self._directory)

    def stop_daemon(self) -> None:
        """Stops the daemon with all its containers."""
        _stop(self._daemon)

    def remove_exec_root(self) -> None:
        """Removes the folder of sockets, which is not in the directory of the test."""
        shutil.rmtree(self._exec_root, ignore_errors=True)

    def start_daemon(self) -> None:
        self._daemon = _start_daemon(self._directory, self._namespace, self._options)
        self.wait_until_up()

    def pause_daemon(self) -> None:
        """Stops the daemon's process: its socket accepts, and nothing answers."""
        self._daemon.send_signal(signal.SIGSTOP)

    def resume_daemon(self) -> None:
        self._daemon.send_signal(signal.SIGCONT)

    def remove_all(self) -> None:
        if containers := self("ps", "-aq").split():
            self("rm", "-f", *containers)


class Docker(Engine):
    """A daemon with a bridge, on a host of the tests."""

    def __init__(self, directory: Path, host: Host) -> None:
        self.host = host
        super().__init__(directory, f"/run/netns/{host.name}", "--bip", "172.31.250.1/24")

    def start(self, *arguments: str) -> str:
        """Runs ``docker run -d``, and returns the id of 64 hexadecimal digits."""
        return self("run", "-d", *arguments)

    def python(self, name: str, *options: str) -> Actor:
        """Starts the system's Python in a container of that name."""
        mounts = (f"{path}:{path}:ro" for path in ("/usr", "/lib", "/lib64"))
        shared = [word for mount in mounts for word in ("-v", mount)]
        return Actor(*self._command, "run", "-i", "--rm", "--name", name, *shared, *options,
                     "--entrypoint", "/usr/bin/python3", IMAGE)  # fmt: skip

    def id(self, name: str) -> str:
        return self("inspect", "-f", "{{.Id}}", name)

    def address(self, container: str) -> str:
        return self("inspect", "-f", "{{.NetworkSettings.IPAddress}}", container)

    def pid(self, container: str) -> int:
        return int(self("inspect", "-f", "{{.State.Pid}}", container))


@contextlib.contextmanager
def docker_daemon(host: Host, directory: Path) -> Iterator[Docker]:
    """Runs a daemon in the namespace of ``host`` until the context ends.

    It has the image busybox, and those that were built in the same directory before.
    """
    with _running(Docker(directory, host)) as docker:
        docker("import", "--change", 'ENTRYPOINT ["/bin/busybox"]', _root(directory), IMAGE)
        yield docker


@contextlib.contextmanager
def docker_builder(directory: Path) -> Iterator[Engine]:
    """Runs a daemon that builds images with ``--network host``, the network of the tests.

    It changes nothing in that network.
    """
    aloof = ("--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false")
    with _running(Engine(directory, _OURS, *aloof)) as engine:
        yield engine


@contextlib.contextmanager
def _running(engine: _Engine) -> Iterator[_Engine]:
    parents_before = _cgroup_parents()
    try:
        engine.wait_until_up()
        yield engine
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            engine.remove_all()
        engine.stop_daemon()
        engine.remove_exec_root()
        for parent in _cgroup_parents() - parents_before:
            with contextlib.suppress(OSError):
                parent.rmdir()


def _start_daemon(
    directory: Path, namespace: str, options: tuple[str, ...]
) -> subprocess.Popen[bytes]:
    """Starts the daemon by nsenter, because `ip netns exec` hides the cgroup file systems."""
    (directory / "daemon.json").write_text(json.dumps({"features": {"buildkit": False}}))
    command = [
        "setpriv", "--pdeathsig", "TERM",  # the daemon ends with the tests, however these end
        "nsenter", f"--net={namespace}", "unshare", "--mount", "--propagation",
        "private", "dockerd", "--config-file", directory / "daemon.json",
        "--data-root", directory / "data",
        "--pidfile", directory / "pid", "-H", f"unix://{directory}/socket",
        "--log-level", "warn", *options,
    ]  # fmt: skip
    with open(directory / "log", "wb") as log:
        return subprocess.Popen(
            list(map(str, command)), stdout=log, stderr=log, start_new_session=True
        )


def _wait_until_up(docker: Engine, daemon: subprocess.Popen[bytes], directory: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(subprocess.CalledProcessError):
            docker("version")
            return
        log = (directory / "log").read_text()
        assert daemon.poll() is None, f"dockerd ended:\n{log}"
        assert time.monotonic() < deadline, f"dockerd does not answer:\n{log}"
        time.sleep(0.1)


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    """Stops dockerd, which stops its containerd; kills the session if that takes too long."""
    daemon.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        daemon.wait(_STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(daemon.pid, signal.SIGKILL)
    daemon.wait()


def _root(directory: Path) -> str:
    """Makes a tar file of a root with busybox, one user and one group."""
    path = directory / "root.tar"
    with tarfile.open(path, "w") as archive:
        archive.add("/bin/busybox", "bin/busybox")
        for name, line in (("passwd", b"root:x:0:0:root:/:/bin/sh\n"), ("group", b"root:x:0:\n")):
            member = tarfile.TarInfo(f"etc/{name}")
            member.size = len(line)
            archive.addfile(member, io.BytesIO(line))
    return str(path)


def _cgroup_parents() -> set[Path]:
    return {*_CGROUPS.glob("*/docker"), *_CGROUPS.glob("docker")}
