"""Tests Docker's containers at both ends.

Records have their ids, even after a container is gone.
"""

from __future__ import annotations

import pwd
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from probe.flow.codes import OwnerSource
from probe.flow.rows import Rows
from tests.support.lab.docker import IMAGE, Docker, docker_daemon
from tests.support.lab.hosts import Host, two_hosts
from tests.support.meters.actors import TCP, UDP, Actor, MeteringProcess, actors, metering
from tests.support.meters.shell import shells

#: Answers every connection with one line and closes it. `-ll` accepts further ones.
SERVE = (IMAGE, "nc", "-ll", "-p", "80", "-e", "/bin/busybox", "echo", "hello")


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    """Yields two hosts: the second has Docker, the first has no containers."""
    with two_hosts("sd") as found:
        yield found


@pytest.fixture(scope="module")
def docker(pair: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    with docker_daemon(pair[1], tmp_path_factory.mktemp("docker")) as found:
        yield found


@pytest.fixture
def process(docker: Docker) -> Iterator[MeteringProcess]:
    with metering() as found:
        yield found
    docker.remove_all()


def ids(process: MeteringProcess, record: np.void) -> tuple[str, str]:
    """Returns the ids of the containers at the source and at the destination."""
    return (
        process.owner(record, "source").container.id,
        process.owner(record, "destination").container.id,
    )


def names(process: MeteringProcess, record: np.void) -> tuple[str, str]:
    return (
        process.owner(record, "source").process.name,
        process.owner(record, "destination").process.name,
    )


def of_port(process: MeteringProcess, port: int, protocol: int = TCP) -> Rows:
    records = process.records
    wanted = (records["source_port"] == port) | (records["destination_port"] == port)
    found: Rows = records[wanted & (records["protocol"] == protocol)]
    return found


def fetch(client: Actor, address: str, port: int) -> None:
    """Reads one line from a server of SERVE."""
    line = client.do(
        f"s = socket.create_connection(({address!r}, {port}), 5)\n"
        "result = ''\n"
        "while part := s.recv(99): result += part.decode()\n"
        "s.close()"
    )
    assert line == "hello\n"


def when_serving(docker: Docker, container: str) -> str:
    """Waits until a container's server listens, and returns its address."""
    status = Path(f"/proc/{docker.pid(container)}/net/tcp6")
    deadline = time.monotonic() + 120
    while ":0050 " not in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return docker.address(container)


def test_container_to_container(docker: Docker, process: MeteringProcess) -> None:
    """A connection between two namespaces has one record per direction, both with both ids."""
    server = docker.start(*SERVE)
    address = when_serving(docker, server)
    client = docker.start(IMAGE, "nc", address, "80")
    docker("wait", client)
    process.tick_for(0.3)
    records = of_port(process, 80)
    assert {ids(process, record) for record in records} == {(client, server), (server, client)}
    assert len(records) == 2
    assert re.fullmatch("[0-9a-f]{64}", client)
    assert set(records["flow_direction"].tolist()) == {1}
    (to,) = records[records["destination_port"] == 80]
    owner = process.owner(to, "source")
    assert (owner.process.name, owner.process.path) == ("busybox", "/bin/busybox")
    assert owner.process.uid == 0
    # names are of its own /etc/passwd and /etc/group, if it lived until they were read
    assert (owner.process.user_name, owner.process.group_name) in {("root", "root"), ("", "")}


def test_users_of_an_image_are_none_of_the_host(docker: Docker, process: MeteringProcess) -> None:
    """One number is also a user's of the host; the other has a name in the image."""
    host_user = pwd.getpwall()[1]
    shared = ("--user", str(host_user.pw_uid))
    server, client = docker.python("server"), docker.python("client", *shared)
    try:
        server.do("l = socket.create_server(('', 80))")
        client.do(f"s = socket.create_connection(({docker.address('server')!r}, 80), 5)")
        server.do("c, _ = l.accept()")
        process.tick_for(0.3)  # names are read while these processes live
        client.do("s.close()")
        server.do("c.close()")
    finally:
        client.leave()
        server.leave()
    process.tick_for(0.3)
    records = of_port(process, 80)
    (to,) = records[records["destination_port"] == 80]
    calling, serving = process.owner(to, "source"), process.owner(to, "destination")
    assert (calling.process.uid, calling.process.user_name) == (host_user.pw_uid, "")
    assert calling.process.has_own_users
    assert (serving.process.uid, serving.process.user_name, serving.process.group_name) == (
        0,
        "root",
        "root",
    )


def test_a_container_that_is_gone(docker: Docker, process: MeteringProcess) -> None:
    """It lived for some milliseconds between two reads, and its record still has its id."""
    server = docker.start(*SERVE)
    address = when_serving(docker, server)
    cidfile = Path(docker("info", "-f", "{{.DockerRootDir}}")) / "short.cid"
    docker("run", "--rm", "--cidfile", str(cidfile), IMAGE, "nc", address, "80")
    short = cidfile.read_text()
    cidfile.unlink()
    assert short not in docker("ps", "-aq", "--no-trunc")
    process.tick_for(0.3)
    records = of_port(process, 80)
    assert {ids(process, record) for record in records} == {(short, server), (server, short)}
    assert len(records) == 2


def test_ten_containers_that_are_gone(docker: Docker, process: MeteringProcess) -> None:
    server = docker.start(*SERVE)
    address = when_serving(docker, server)
    clients = [docker.start("--rm", IMAGE, "nc", address, "80") for _ in range(10)]
    deadline = time.monotonic() + 120
    while docker("ps", "-q", "--no-trunc") != server and time.monotonic() < deadline:
        process.tick_for(0.1)
    process.tick_for(0.5)
    records = of_port(process, 80)
    found = sorted(ids(process, record) for record in records)
    assert found == sorted([(one, server) for one in clients] + [(server, one) for one in clients])


@pytest.mark.parametrize("host", [0, 1], ids=["another host", "the same host"])
def test_a_published_port(
    docker: Docker, process: MeteringProcess, pair: tuple[Host, Host], host: int
) -> None:
    """Docker translates the destination. The ends see different addresses, but are one flow."""
    server = docker.start("-p", "8080:80", *SERVE)
    when_serving(docker, server)
    with actors(pair[host]) as (client,):
        fetch(client, str(pair[1].four), 8080)
        process.tick_for(0.3)
    records = process.of([pair[host]], TCP)
    assert len(records) == 2
    assert {ids(process, record) for record in records} == {("", server), (server, "")}
    (to,) = records[records["destination_port"] == 8080]
    (back,) = records[records["source_port"] == 80]
    assert process.pids(to)[0] == process.pids(back)[1] == client.pid
    assert bytes(to["destination_address"])[:4] == pair[1].four.packed
    assert process.pids(to)[1] == process.pids(back)[0]


def test_a_published_port_through_the_proxy(
    docker: Docker, process: MeteringProcess, pair: tuple[Host, Host]
) -> None:
    """On loopback Docker's proxy is in between, so there are two connections."""
    server = docker.start("-p", "8080:80", *SERVE)
    when_serving(docker, server)
    with actors(pair[1]) as (client,):
        fetch(client, "127.0.0.1", 8080)
        process.tick_for(1.5)
    process.flush()
    outer, inner = of_port(process, 8080), of_port(process, 80)
    assert len(outer) == len(inner) == 2
    assert {ids(process, record) for record in outer} == {("", "")}
    assert {ids(process, record) for record in inner} == {("", server), (server, "")}
    (to,) = outer[outer["destination_port"] == 8080]
    assert process.pids(to)[0] == client.pid
    assert names(process, to)[1] == "docker-proxy"
    (on,) = inner[inner["destination_port"] == 80]
    assert names(process, on)[0] == "docker-proxy"
    assert process.pids(on)[0] == process.pids(to)[1]


def test_datagrams_from_container_to_container(docker: Docker, process: MeteringProcess) -> None:
    server, client = docker.python("server"), docker.python("client")
    try:
        for actor in (server, client):
            actor.do("u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(120)")
        server.do("u.bind(('', 5353))")
        client.do(f"u.sendto(b'question', ({docker.address('server')!r}, 5353))")
        server.do("data, peer = u.recvfrom(99); u.sendto(b'an answer', peer)")
        client.do("u.recv(99)")
        wanted = docker.id("client"), docker.id("server")
    finally:
        client.leave()
        server.leave()
    process.tick_for(0.3)
    records = of_port(process, 5353, UDP)
    found = {ids(process, record): int(record["octets"]) for record in records}
    assert found == {wanted: 28 + 8, wanted[::-1]: 28 + 9}
    assert len(records) == 2


def test_containers_older_than_the_probe(docker: Docker) -> None:
    """Both ends are found by their descriptors, and are joined."""
    server, client = docker.python("server"), docker.python("client")
    try:
        server.do("l = socket.create_server(('', 80))")
        client.do(f"s = socket.create_connection(({docker.address('server')!r}, 80), 5)")
        server.do("c, _ = l.accept()")
        with metering() as process:
            client.do("s.send(b'x' * 100)")
            server.do("c.send(c.recv(100) * 2)")
            client.do("s.recv(200)")
            process.flush()
            records = of_port(process, 80)
            wanted = docker.id("client"), docker.id("server")
            found = {ids(process, record) for record in records}
        assert found == {wanted, wanted[::-1]}
        assert len(records) == 2
        assert set(records["source_owner_source"].tolist()) == {OwnerSource.DESCRIPTOR}
    finally:
        client.leave()
        server.leave()
        docker.remove_all()


@pytest.mark.parametrize("flag", ["--include", "--exclude"])
def test_filter_by_container(docker: Docker, flag: str) -> None:
    """Containers are chosen by the beginning of their id.

    A rule sees one end only, and the host's end has no container.
    """
    chosen, other = docker.start(*SERVE), docker.start(*SERVE)
    addresses = {when_serving(docker, one): one for one in (chosen, other)}
    with shells() as shell, actors(docker.host) as (client,):
        others = ("--include", "cidr=172.31.250.0/24") if flag == "--exclude" else ()
        found = shell(flag, f"container={chosen[:12]}", *others)
        for address in addresses:
            fetch(client, address, 80)
        records = found.finish()
        left_out = found.left_out()
    docker.remove_all()
    ends = {record[f"{side}_PROC_CONTAINER_ID"] for record in records for side in ("SRC", "DST")}
    if flag == "--include":
        assert ends == {chosen, ""}
        assert len(records) == 2
        assert left_out >= (3, 18)
    else:
        assert chosen not in ends
        assert other in ends
        assert left_out >= (1, 6)  # all packets of one connection


def test_nothing_of_docker_is_left(pair: tuple[Host, Host], tmp_path: Path) -> None:
    """The fixture leaves no process, mount or cgroup."""
    with docker_daemon(pair[0], tmp_path) as docker:
        docker.start(*SERVE)
    deadline = time.monotonic() + 120  # the container's helpers may still be ending
    while left := [line for folder in docker.folders for line in left_of(folder)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def left_of(folder: Path) -> list[str]:
    """Returns mounts and processes that use a folder."""
    commands = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    lines = [*Path("/proc/mounts").read_text().splitlines(), *commands.stdout.splitlines()]
    return [line for line in lines if str(folder) in line]
