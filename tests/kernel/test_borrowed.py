"""Tests processes that try to borrow the identity of others.

They use a Pod's labels, a cgroup with a container's name, arguments of Docker's proxy or an
overwritten stack.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe.flow.codes import UNCONFIRMED, UNCONFIRMED_PATH
from probe.flow.owner import Owner
from probe.kernel import host as kernel_host
from probe.owners.procfs import owner_from_proc, read_identity
from probe.owners.users import UserNames
from tests.kernel.test_containers import SERVE, when_serving
from tests.kernel.test_names import BRIDGE, flows, start
from tests.support.lab.docker import Docker, docker_daemon
from tests.support.lab.hosts import Host, two_hosts
from tests.support.meters.shell import Record, Shell, Shells, shells

NOBODY = 65534
PYTHON = os.path.realpath(sys.executable)
LABELS = (
    "io.kubernetes.pod.name=kube-proxy-x", "io.kubernetes.pod.namespace=kube-system",
    "io.kubernetes.pod.uid=2c48913c-b29f-11e7-9350-020968147796",
    "io.kubernetes.container.name=kube-proxy",
)  # fmt: skip
FETCH = """
    import socket, sys
    s = socket.create_connection((sys.argv[1], 80), 5)
    while s.recv(99): pass
"""


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    with two_hosts("sb") as found:
        yield found


@pytest.fixture(scope="module")
def docker(pair: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    with docker_daemon(pair[1], tmp_path_factory.mktemp("docker")) as found:
        yield found


@pytest.fixture
def shell(docker: Docker) -> Iterator[Shells]:
    with shells() as found:
        yield found
    docker.remove_all()


def fetch(docker: Docker, *arguments: str, program: str = PYTHON, code: str = FETCH) -> None:
    """Runs a program of Docker's host. `ip netns exec` would hide the cgroups from it."""
    inside = ["nsenter", f"--net=/run/netns/{docker.host.name}", program]
    command = [*inside, "-c", textwrap.dedent(code), *arguments]
    subprocess.run(command, check=True, timeout=180)


def request(found: Shell) -> Record:
    (to,) = [one for one in flows(found.finish(), 80) if one["destinationTransportPort"] == 80]
    return to


def test_labels_make_no_pod(docker: Docker, shell: Shells) -> None:
    labels = [word for label in LABELS for word in ("--label", label)]
    server = docker.start("--name", "miner", *labels, *SERVE)
    address = when_serving(docker, server)
    found = start(shell, docker, *BRIDGE, "--profile", "kubernetes")
    fetch(docker, address)
    to = request(found)
    assert to["destinationContainerName"] == "miner"
    assert (to["destinationPodName"], to["destinationPodNamespace"]) == ("", "")
    assert to["DST_PROC_CONTAINER_ID"] == server
    assert not to["destinationOwnerOrigin"] & UNCONFIRMED


@contextlib.contextmanager
def delegated(container: str) -> Iterator[Path]:
    """Yields a cgroup with a container's name, below a cgroup that a user owns."""
    number, _ = kernel_host.container_hierarchy()
    names = {1: "memory", 2: "pids", 3: "devices"}
    top = Path("/sys/fs/cgroup") / names[number] if number else Path(kernel_host.cgroup_root())
    mine = top / "sockflow-test-mine"
    inner = mine / f"docker-{container}.scope"
    inner.mkdir(parents=True)
    for one in (mine, inner):
        os.chown(one, NOBODY, NOBODY)
    try:
        yield inner
    finally:
        inner.rmdir()
        mine.rmdir()


def test_a_cgroup_of_that_name_is_no_container(docker: Docker, shell: Shells) -> None:
    server = docker.start("--name", "web", *SERVE)
    victim = docker.start("--name", "bank", *SERVE)
    address = when_serving(docker, server)
    found = start(shell, docker, *BRIDGE)
    with delegated(victim) as cgroup:
        enter = f"open({str(cgroup / 'cgroup.procs')!r}, 'w').write('0')"
        fetch(docker, address, code=f"{enter}\n{textwrap.dedent(FETCH)}")
    to = request(found)
    assert to["SRC_PROC_CONTAINER_ID"] == victim
    assert to["sourceContainerName"] == ""
    assert to["sourceOwnerOrigin"] & UNCONFIRMED
    assert to["destinationContainerName"] == "web"
    assert not to["destinationOwnerOrigin"] & UNCONFIRMED


def test_a_cgroup_of_that_name_as_proc_has_it(docker: Docker) -> None:
    """The Netlink source reads /proc.

    Without a runtime, only the place of the cgroup shows the doubt.
    """
    victim = docker.start("--name", "bank", *SERVE)
    with delegated(victim) as cgroup, subprocess.Popen(["sleep", "60"]) as child:
        (cgroup / "cgroup.procs").write_text(str(child.pid))
        borrowed = owner_of(child.pid)
        child.kill()
        child.wait()
    assert (borrowed.container.id, borrowed.container.is_unconfirmed) == (victim, True)
    real = owner_of(docker.pid(victim))
    assert (real.container.id, real.container.is_unconfirmed) == (victim, False)
    docker.remove_all()


def owner_of(pid: int) -> Owner:
    identity = read_identity(pid)
    assert identity
    return owner_from_proc(identity, UserNames(), lambda _: "")


def test_a_program_of_that_name_is_no_proxy(docker: Docker, shell: Shells, tmp_path: Path) -> None:
    server = docker.start("--name", "web", *SERVE)
    victim = docker.start("--name", "bank", *SERVE)
    address, theirs = when_serving(docker, server), when_serving(docker, victim)
    program = tmp_path / "docker-proxy"
    shutil.copy(PYTHON, program)
    found = start(shell, docker, *BRIDGE)
    code = f"""
        import socket, sys, time
        s = socket.create_connection((sys.argv[1], 80), 5)
        while s.recv(99): pass
        time.sleep(2)  # so that its arguments could be read: -container-ip {theirs}
    """
    fetch(docker, address, "-container-ip", theirs, program=str(program), code=code)
    to = request(found)
    assert to["SRC_PROC_NAME"] == "docker-proxy"
    assert (to["SRC_PROC_CONTAINER_ID"], to["sourceContainerName"]) == ("", "")


OVERWRITE = """
    import socket, struct, sys, time
    pairs = struct.iter_unpack("LL", open("/proc/self/auxv", "rb").read())
    at = dict(pairs)[31]
    with open("/proc/self/mem", "r+b", 0) as memory:
        memory.seek(at)
        memory.write(b"/usr/sbin/sshd\\0")
    s = socket.create_connection((sys.argv[1], 80), 5)
    while s.recv(99): pass
    time.sleep(float(sys.argv[2]))
"""


def test_a_path_that_is_too_deep_is_not_taken_from_the_stack(
    docker: Docker, shell: Shells, tmp_path: Path
) -> None:
    server = docker.start("--name", "web", *SERVE)
    address = when_serving(docker, server)
    deep = tmp_path.joinpath(*"d" * 45)
    deep.mkdir(parents=True)
    program = deep / "program"
    shutil.copy(PYTHON, program)
    found = start(shell, docker, *BRIDGE)
    for lingering in ("2", "0"):
        fetch(docker, address, lingering, program=str(program), code=OVERWRITE)
    records = [one for one in flows(found.finish(), 80) if one["destinationTransportPort"] == 80]
    long, short = sorted(records, key=lambda one: one["flowStartMilliseconds"])
    assert long["sourceProcessPath"] == str(program)
    assert (long["sourceProcessPathOrigin"], long["sourceOwnerOrigin"] & UNCONFIRMED_PATH) == (1, 0)
    if short["sourceProcessPath"] != str(program):  # it ended before it was read
        assert short["sourceProcessPathOrigin"] == 2
        assert short["sourceOwnerOrigin"] & UNCONFIRMED_PATH
