"""Tests names of Docker's containers and their veths in what the whole probe exports."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.test_containers import SERVE, fetch, when_serving
from tests.support.json_schema import check_line
from tests.support.lab.docker import IMAGE, Docker, docker_daemon
from tests.support.lab.hosts import Host, run, two_hosts
from tests.support.meters.actors import Actor, actors
from tests.support.meters.shell import ROOT, Command, Record, Shell, Shells, shells
from tests.support.talk import COUNTERS, DOCKER, ENDS, TCP, WHO, pieces

BRIDGE = ("--include", "cidr=172.31.250.0/24")
LABELS = ("--label", "com.docker.compose.project=shop", "--label", "com.docker.compose.service=api")
#: Ends after four seconds, so that a dump of sockets sees the connection.
SERVE_SLOWLY = (IMAGE, "nc", "-ll", "-p", "80", "-e", "/bin/busybox", "sleep", "4")
#: A child serves and lives on after its parent's close, so the child ends the connection.
SERVE_BY_CHILD = (
    IMAGE, "nc", "-ll", "-p", "80", "-e", "/bin/busybox", "sh", "-c", "sleep 0.3; echo hello",
)  # fmt: skip
#: For a longer test by hand: SHORT_LIVED=200 pytest tests/kernel/test_names.py -k short
SHORT_LIVED = int(os.environ.get("SHORT_LIVED", "40"))


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    with two_hosts("sn") as found:
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


def start(shell: Shells, docker: Docker, *options: str) -> Shell:
    """Starts the probe in the namespace of Docker's bridge."""
    host = docker.host
    return shell("--docker", docker.url, *options, probe=host, sink=host, collect=("--options",))


def flows(records: list[Record], port: int) -> list[Record]:
    return [
        record
        for record in records
        if port in (record.get("sourceTransportPort"), record.get("destinationTransportPort"))
        and "options" not in record
    ]


def to_port(records: list[Record], port: int = 80) -> list[Record]:
    return [one for one in flows(records, port) if one["destinationTransportPort"] == port]


def names(record: Record) -> tuple[str, str]:
    return record["sourceContainerName"], record["destinationContainerName"]


def interfaces(record: Record) -> tuple[int, int]:
    return record["ingressInterface"], record["egressInterface"]


def veth(docker: Docker, container: str, inside: str = "eth0") -> int:
    """Returns the index of the host's end, as ``ip`` shows it within the container."""
    network = f"--net=/proc/{docker.pid(container)}/ns/net"
    (link,) = json.loads(run("nsenter", network, "ip", "-j", "link", "show", inside).stdout)
    index: int = link["link_index"]
    return index


def link_names(docker: Docker) -> dict[int, str]:
    found = json.loads(run("ip", "-n", docker.host.name, "-j", "link").stdout)
    return {link["ifindex"]: link["ifname"] for link in found}


def descriptions(records: list[Record]) -> dict[int, tuple[str, str]]:
    """Returns {index: (name, description)} of the latest options."""
    return {
        record["ingressInterface"]: (record["interfaceName"], record["interfaceDescription"])
        for record in records
        if "interfaceDescription" in record
    }


#: Elements that the default Template leaves out, because Wireshark reads no more fields.
_MORE = [
    f"{side}{what}" for side in ("source", "destination")
    for what in ("ContainerImage", "ComposeProject", "ComposeService")
]  # fmt: skip


def test_two_containers(docker: Docker, shell: Shells, tmp_path: Path) -> None:
    """Both ends have name, image, compose's labels and veth, in both directions."""
    server = docker.start("--name", "web", *LABELS, *SERVE)
    client = docker.start("--name", "curl", "--entrypoint", "/bin/busybox", IMAGE, "sleep", "60")
    address = when_serving(docker, server)
    template = tmp_path / "template.txt"
    template.write_text("\n".join([(ROOT / "templates" / "full.txt").read_text(), *_MORE]))
    found = start(shell, docker, *BRIDGE, "--active-timeout", "1", "--template", str(template))
    docker("exec", "curl", "/bin/busybox", "nc", address, "80")
    found.wait_for(lambda records: len(flows(records, 80)) == 2)
    wanted, ours = (veth(docker, client), veth(docker, server)), link_names(docker)
    records = found.finish()
    to, back = sorted(flows(records, 80), key=lambda record: record["sourceTransportPort"] == 80)
    assert (names(to), names(back)) == (("curl", "web"), ("web", "curl"))
    assert (interfaces(to), interfaces(back)) == (wanted, wanted[::-1])
    assert to["DST_PROC_CONTAINER_ID"] == server
    assert to["destinationContainerImage"] == IMAGE
    assert (to["destinationComposeProject"], to["destinationComposeService"]) == ("shop", "api")
    assert (to["sourceComposeProject"], to["sourceSystemdUnit"]) == ("", "")
    told = descriptions(records)
    assert [told[index] for index in wanted] == [
        (ours[wanted[0]], "curl"),
        (ours[wanted[1]], "web"),
    ]
    assert {index: name for index, (name, _) in told.items()} == ours


def test_a_published_port(docker: Docker, shell: Shells, pair: tuple[Host, Host]) -> None:
    """A flow from another host enters the container through its veth. The other end has no name."""
    server = docker.start("--name", "web", "-p", "8080:80", *SERVE)
    when_serving(docker, server)
    found = start(shell, docker)
    with actors(pair[0]) as (client,):
        fetch(client, str(pair[1].four), 8080)
        found.wait_for(lambda records: to_port(records, 8080))
    wanted = veth(docker, server)
    records = flows(found.finish(), 8080)
    (to,) = [record for record in records if record["destinationTransportPort"] == 8080]
    assert names(to) == ("", "web")
    assert interfaces(to)[1] == wanted


def test_a_published_port_through_the_proxy(docker: Docker, shell: Shells) -> None:
    """A flow from loopback is two connections with two owners each.

    The proxy's ends have the container that it serves, also with connections to other containers'
    ports.
    """
    one = docker.start("--name", "web", "-p", "8080:80", *SERVE)
    other = docker.start("--name", "web-2", "-p", "8081:80", *SERVE)
    for server in (one, other):
        when_serving(docker, server)
    found = start(shell, docker, "--include", "port=80,protocol=tcp", "--include", "port=8080",
                  "--include", "port=8081", "--active-timeout", "1")  # fmt: skip
    third = docker.start("--name", "late", "-p", "8082:80", *SERVE)  # its proxy is late, too
    when_serving(docker, third)
    with actors(docker.host) as (client,):
        for port in (8080, 8081, 8082):
            fetch(client, "127.0.0.1", port)
        found.wait_for(lambda records: len(to_port(records)) == 3)
    records = found.finish()
    for port, server, name in ((8080, one, "web"), (8081, other, "web-2")):
        outer = flows(records, port)
        (to,) = [record for record in outer if record["destinationTransportPort"] == port]
        assert (to["SRC_PROC_PID"], to["DST_PROC_NAME"]) == (client.pid, "docker-proxy")
        assert (names(to), to["DST_PROC_CONTAINER_ID"]) == (("", name), server)
    inner = to_port(records)
    assert [record["SRC_PROC_NAME"] for record in inner] == ["docker-proxy"] * 3
    assert sorted(map(names, inner)) == [("late", "late"), ("web", "web"), ("web-2", "web-2")]


def test_networks_that_are_shared(docker: Docker, shell: Shells, pair: tuple[Host, Host]) -> None:
    """A container with the host's network has no veth.

    One with another container's network has that one's veth, under either name.
    """
    server = docker.start("--name", "web", *SERVE)
    address = when_serving(docker, server)
    found = start(shell, docker, *BRIDGE)
    docker.start("--name", "with-host", "--network", "host", IMAGE, "nc", address, "80")
    docker.start("--name", "with-web", "--network", "container:web", IMAGE, "nc", address, "80")
    docker("wait", "with-host", "with-web")
    found.wait_for(lambda records: len(flows(records, 80)) == 4)
    wanted = veth(docker, server)
    records = flows(found.finish(), 80)
    seen = {names(record): interfaces(record) for record in records}
    assert seen.keys() == {
        ("with-host", "web"), ("web", "with-host"), ("with-web", "web"), ("web", "with-web"),
    }  # fmt: skip
    assert seen["with-host", "web"][1] == seen["web", "with-host"][0] == wanted
    assert seen["with-web", "web"] == seen["web", "with-web"] == (0, 0)  # on loopback


def test_two_networks(docker: Docker, shell: Shells) -> None:
    """The veth is that of the interface which the flow used."""
    docker("network", "create", "--subnet", "172.31.251.0/24", "second")
    try:
        server = docker.start("--name", "web", *SERVE)
        docker("network", "connect", "second", "web")
        one = when_serving(docker, server)
        other = docker("inspect", "-f", "{{.NetworkSettings.Networks.second.IPAddress}}", "web")
        found = start(shell, docker, *BRIDGE, "--include", "cidr=172.31.251.0/24")
        with actors(docker.host) as (client,):
            fetch(client, one, 80)
            fetch(client, other, 80)
        found.wait_for(lambda records: len(to_port(records)) == 2)
        wanted = {one: veth(docker, server), other: veth(docker, server, "eth1")}
        to = to_port(found.finish())
        assert {r["destinationIPv4Address"]: r["egressInterface"] for r in to} == wanted
    finally:
        docker.remove_all()
        docker("network", "rm", "second")


def test_short_lived_containers(docker: Docker, shell: Shells) -> None:
    """They are removed as soon as they end. Each record has its own name, and never another's."""
    server = docker.start("--name", "web", *SERVE)
    address = when_serving(docker, server)
    found = start(shell, docker, *BRIDGE)

    def short(number: int) -> str:
        return docker.start("--rm", "--name", f"short-{number}", IMAGE, "nc", address, "80")

    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(short, range(SHORT_LIVED)))
    found.wait_for(lambda records: len(flows(records, 80)) >= 2 * SHORT_LIVED)
    wanted = {container: f"short-{number}" for number, container in enumerate(ids)}
    records = flows(found.finish(), 80)
    to = to_port(records)
    back = [record for record in records if record["sourceTransportPort"] == 80]
    assert {r["SRC_PROC_CONTAINER_ID"]: r["sourceContainerName"] for r in to} == wanted
    assert {r["DST_PROC_CONTAINER_ID"]: r["destinationContainerName"] for r in back} == wanted
    assert len(to) == len(back) == SHORT_LIVED
    known = [record["ingressInterface"] for record in to if record["ingressInterface"]]
    assert len(set(known)) == len(known), "two containers behind one veth"
    assert len(known) >= SHORT_LIVED / 2  # the other veths are 0, not another container's


@pytest.mark.parametrize("flag", ["--include", "--exclude"])
def test_filters_by_name_of_short_lived_containers(
    docker: Docker, shell: Shells, flag: str
) -> None:
    """Each may end before its name comes. No record is lost, and no excluded one leaves."""
    server = docker.start("--name", "web", *SERVE)
    address = when_serving(docker, server)
    wanted = {f"short-{number}" for number in range(0, SHORT_LIVED, 2)}
    rules = [word for name in sorted(wanted) for word in (flag, f"container={name}")]
    found = start(shell, docker, *rules, *(BRIDGE if flag == "--exclude" else ()))

    def short(number: int) -> None:
        docker.start("--rm", "--name", f"short-{number}", IMAGE, "nc", address, "80")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(short, range(SHORT_LIVED)))
    due = len(wanted) if flag == "--include" else SHORT_LIVED
    found.wait_for(lambda records: len(to_port(records)) >= due)
    to = to_port(found.finish())
    shorts = {f"short-{number}" for number in range(SHORT_LIVED)}
    told = Counter(record["sourceContainerName"] for record in to)
    if flag == "--include":
        assert told == dict.fromkeys(wanted, 1)
    else:  # a server's end is reported without the name of its excluded client
        others = shorts - wanted
        assert {name: told[name] for name in others} == dict.fromkeys(others, 1)
        assert set(told) - others == {""}


def test_a_daemon_that_starts_again(docker: Docker, shell: Shells) -> None:
    found = start(shell, docker, *BRIDGE, "-v")
    docker.start("--name", "before", *SERVE)
    docker.stop_daemon()
    docker.start_daemon()
    docker.remove_all()
    server = docker.start("--name", "after", *SERVE)
    address = when_serving(docker, server)
    docker("run", "--rm", "--name", "client", IMAGE, "nc", address, "80")
    found.wait_for(lambda records: len(flows(records, 80)) == 2)
    assert {names(record) for record in flows(found.finish(), 80)} == {
        ("client", "after"), ("after", "client"),
    }  # fmt: skip
    assert "does not tell names" in found.summary


def test_a_daemon_that_comes_later(docker: Docker, shell: Shells) -> None:
    docker.stop_daemon()
    found = start(shell, docker, *BRIDGE)
    docker.start_daemon()
    server = docker.start("--name", "web", *SERVE)
    address = when_serving(docker, server)
    docker("run", "--rm", "--name", "client", IMAGE, "nc", address, "80")
    found.wait_for(lambda records: len(flows(records, 80)) == 2)
    assert {names(record) for record in flows(found.finish(), 80)} == {
        ("client", "web"), ("web", "client"),
    }  # fmt: skip


def test_a_daemon_that_hangs(docker: Docker, shell: Shells) -> None:
    """A signal stops the daemon, so it accepts and does not answer.

    Records still have ids in time.
    """
    server = docker.start("--name", "web", *SERVE)
    address = when_serving(docker, server)
    docker.pause_daemon()
    try:
        found = start(shell, docker, *BRIDGE, "--active-timeout", "1")
        with actors(docker.host) as (client,):
            fetch(client, address, 80)
        began = time.monotonic()
        found.wait_for(lambda records: len(flows(records, 80)) == 2)
        records = flows(found.finish(), 80)
        assert time.monotonic() - began < 60
    finally:
        docker.resume_daemon()
    assert {record["DST_PROC_CONTAINER_ID"] for record in records} == {server, ""}
    assert {names(record) for record in records} == {("", "")}


def test_a_user_who_may_not_ask(docker: Docker) -> None:
    """The user meters by Netlink and may not open Docker's socket.

    Records have ids, and there is one warning.
    """
    address = when_serving(docker, docker.start("--name", "web", *SERVE_SLOWLY))
    nobody = "65534:65534"
    client = docker.start("--user", nobody, "--network", "host", IMAGE, "nc", address, "80")
    may_read = "-all,+dac_read_search"  # only root may read the checkout and the interpreter here
    found = subprocess.run(
        ["nsenter", f"--net=/run/netns/{docker.host.name}",
         "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
         f"--inh-caps={may_read}", f"--ambient-caps={may_read}",
         sys.executable, "-m", "probe", "run", "--docker", docker.url, "-e", "json:-",
         "--include", "port=80", "--duration", "4"],
        cwd=ROOT, text=True, capture_output=True, check=True, timeout=180,
    )  # fmt: skip
    docker.remove_all()
    objects = [json.loads(line) for line in found.stdout.splitlines()]
    (flow,) = [one for one in objects if one.get("EVENT_TYPE") == "FLOW"]
    assert flow["LOCAL_CONTAINER"] == {"ID": client, "UNCONFIRMED": True}
    assert found.stderr.count("does not tell names") == 1
    assert "Permission denied" in found.stderr


def test_a_socket_that_nobody_listens_at(docker: Docker, shell: Shells, tmp_path: Path) -> None:
    """A killed daemon leaves such a socket."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "docker.sock"))
    server = docker.start("--name", "web", *SERVE)
    address = when_serving(docker, server)
    url = f"unix://{tmp_path}/docker.sock"
    found = shell("--docker", url, *BRIDGE, probe=docker.host, sink=docker.host)
    docker("run", "--rm", IMAGE, "nc", address, "80")
    found.wait_for(lambda records: len(flows(records, 80)) == 2)
    records = flows(found.finish(), 80)
    assert {record["DST_PROC_CONTAINER_ID"] for record in records} > {server}
    assert {names(record) for record in records} == {("", "")}
    assert found.summary.count("does not tell names") == 1


def test_filter_by_name(docker: Docker, shell: Shells) -> None:
    chosen = docker.start("--name", "web", *SERVE)
    other = docker.start("--name", "web-2", *SERVE)
    found = start(shell, docker, "--include", "container=web")
    with actors(docker.host) as (client,):
        for address in (when_serving(docker, chosen), when_serving(docker, other)):
            fetch(client, address, 80)
        found.wait_for(lambda records: len(flows(records, 80)) == 2)
    records = flows(found.finish(), 80)
    assert {name for record in records for name in names(record)} == {"web", ""}


def test_the_live_view_shows_the_name(docker: Docker) -> None:
    server = docker.start("--name", "web", *SERVE)
    address = when_serving(docker, server)
    view = Command("run", "--docker", docker.url, *BRIDGE, host=docker.host)
    try:
        view.wait_for(2)
        with actors(docker.host) as (client,):
            fetch(client, address, 80)
        view.wait_for_output("container > web")
        output, _ = view.stop()
    finally:
        view.kill()
        docker.remove_all()
    assert f"{address}:80" in output
    assert "container > web" in output


def events_of(lines: list[Record], name: str) -> list[Record]:
    return [
        line
        for line in lines
        if line.get("LOCAL_CONTAINER", {}).get("DOCKER", {}).get("NAME") == name
        and line.get("EVENT_TYPE", "FLOW") not in ("FLOW", "LISTEN", "LISTEN_END")
    ]


def test_events_of_containers(shell: Shells, docker: Docker, tmp_path: Path) -> None:
    """Both formats have all events of short-lived containers from start to stop, and rules hold."""
    agent, ecs = tmp_path / "agent.jsonl", tmp_path / "ecs.jsonl"
    wanted = [word for name in ("server", "short") for word in ("--include", f"container={name}")]
    found = start(
        shell, docker, *wanted, "--exclude", "port=82", "--events",
        "-e", f"json://{agent}", "-e", f"json://{ecs}?format=ecs",
    )  # fmt: skip
    server = docker.start("--name", "server", *SERVE_BY_CHILD)
    address = when_serving(docker, server)
    script = f"nc {address} 80; nc {address} 81; nc {address} 82 || true"
    docker("run", "--rm", "--name", "short", IMAGE, "sh", "-c", script)
    docker("rm", "-f", "server")
    found.finish()
    lines = [check_line(line) for line in agent.read_text().splitlines()]
    short, server_events = events_of(lines, "short"), events_of(lines, "server")
    assert [line["EVENT_TYPE"] for line in short] == [
        "CONTAINER_START", "CONNECT", "CLOSE", "CONNECT_FAILED", "CONTAINER_STOP",
    ]  # fmt: skip
    assert [line["EVENT_TYPE"] for line in server_events] == [
        "CONTAINER_START", "ACCEPT", "CLOSE", "CONTAINER_STOP",
    ]  # fmt: skip
    begin, connect, _, failed, end = short
    assert begin["LOCAL_PROCESS"] == end["LOCAL_PROCESS"]
    assert connect["LOCAL_FATHER_PROCESS"]["PID"] == begin["LOCAL_PROCESS"]["PID"]
    assert {line["LOCAL_PROCESS"]["PROCESS_PATH"] for line in short} == {"/bin/busybox"}
    assert (failed["ERROR"], failed["L4_REMOTE_PORT"]) == ("ECONNREFUSED", 81)
    assert len({line["LOCAL_CONTAINER"]["ID"] for line in short}) == 1
    accept, close = server_events[1:3]
    assert accept["L4_REMOTE_PORT"] == close["L4_REMOTE_PORT"] == connect["L4_LOCAL_PORT"]
    assert accept["LOCAL_PROCESS"]["PID"] == server_events[0]["LOCAL_PROCESS"]["PID"]
    assert close["LOCAL_FATHER_PROCESS"]["PID"] == accept["LOCAL_PROCESS"]["PID"]
    others = [check_line(line) for line in ecs.read_text().splitlines()]
    told = Counter(line["event"]["action"] for line in others if "action" in line["event"])
    assert told["container-start"] == told["container-stop"] == told["close"] == 2
    assert "lost: nothing" in found.summary


def test_the_examples_of_the_talk_and_sums(docker: Docker, shell: Shells, tmp_path: Path) -> None:
    """Tests one connection between containers in all outputs of eBPF.

    Its event, its flow and both interfaces' counters have all fields, and the sums of ``sockflow
    flows`` agree. Netlink's flow is in test_kubernetes.
    """
    ebpf = tmp_path / "ebpf.jsonl"
    names = ("--docker", docker.url)
    route = ("default", "dev", "docker0")
    run("ip", "-n", docker.host.name, "route", "add", *route)  # gives the probe an address
    with contextlib.ExitStack() as stack:
        stack.callback(run, "ip", "-n", docker.host.name, "route", "del", *route)
        client, server = (stack.enter_context(inside(docker, name)) for name in ("shell", "web"))
        address = docker.address("web")
        commands = [
            shell.start(*command, host=docker.host)
            for command in (
                ("run", *names, "-e", f"json://{ebpf}", "--events", "--collector", "ebpf"),
                ("flows", *names, "--container", "shell", "--by", "container", "--json"),
            )
        ]
        for command in commands:
            command.wait_for(2)
        server.do("l = socket.create_server(('', 80))")
        client.do(f"s = socket.create_connection(({address!r}, 80), 5)")
        server.do("c, _ = l.accept()")
        client.do("s.sendall(b'x' * 3000)")
        server.do("c.recv(3000, socket.MSG_WAITALL); c.sendall(b'y')")
        client.do("s.recv(1)")
        time.sleep(1.5)
        client.do("s.close()")
        server.do("c.close()")
        time.sleep(1.5)
        outputs = [command.stop()[0].splitlines() for command in commands]
    check_talk(ebpf, address)
    check_sums(outputs[1])


def test_both_collectors_agree(docker: Docker, shell: Shells, tmp_path: Path) -> None:
    """They agree on owners, addresses and counters of a connection between containers."""
    told = {name: tmp_path / f"{name}.jsonl" for name in ("ebpf", "netlink")}
    with contextlib.ExitStack() as stack:
        client, server = (stack.enter_context(inside(docker, name)) for name in ("shell", "web"))
        address = docker.address("web")
        probes = [
            shell.start("run", "--docker", docker.url, "--collector", name, "--active-timeout", "1",
                        "-e", f"json://{path}", host=docker.host)
            for name, path in told.items()
        ]  # fmt: skip
        for probe in probes:
            probe.wait_for(2)
        server.do("l = socket.create_server(('', 80))")
        client.do(f"s = socket.create_connection(({address!r}, 80), 5)")
        server.do("c, _ = l.accept()")
        deadline, exchanges = time.monotonic() + 120, 0
        # a read has limited time to search the sockets of the whole host
        while exchanges < 4 or not all(has_owners(path, address) for path in told.values()):
            assert time.monotonic() < deadline
            client.do("s.sendall(b'x' * 30_000)")
            server.do("c.recv(30_000, socket.MSG_WAITALL); c.sendall(b'y' * 10_000)")
            client.do("s.recv(10_000, socket.MSG_WAITALL)")
            exchanges += 1
            time.sleep(0.5)
        client.do("s.close()")
        server.do("c.close()")
        for probe in probes:
            probe.stop()
    ebpf, netlink = (whole_flow(path, address) for path in told.values())
    assert ebpf[0] == netlink[0]
    assert netlink[1] == pytest.approx(ebpf[1], rel=0.01)
    assert [ebpf[0][f"{end}_CONTAINER"]["DOCKER"]["NAME"] for end in ("LOCAL", "REMOTE")] == [
        "shell", "web",
    ]  # fmt: skip


def has_owners(path: Path, address: str) -> bool:
    """Returns True if the latest record of the flow to ``address`` names both processes."""
    text = path.read_text() if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    flows = [one for one in lines if one.get("EVENT_TYPE") == "FLOW"
             and (one["L4_REMOTE_PORT"], one.get("IPV4_REMOTE_ADDR")) == (80, address)]  # fmt: skip
    return bool(flows) and {"LOCAL_PROCESS", "REMOTE_PROCESS"} <= flows[-1].keys()


def whole_flow(path: Path, address: str) -> tuple[dict[str, Any], list[int]]:
    """Returns the ends' owners and [octets sent, received] of the flow to ``address``, port 80."""
    lines = [check_line(line) for line in path.read_text().splitlines()]
    found = [one for one in lines if one.get("EVENT_TYPE") == "FLOW"
             and (one["L4_REMOTE_PORT"], one.get("IPV4_REMOTE_ADDR")) == (80, address)]  # fmt: skip
    assert len({one["FLOW_ID"] for one in found}) == 1
    same = ("IPV4_LOCAL_ADDR", "L4_LOCAL_PORT", "PROTOCOL", "LOCAL_CONTAINER", "REMOTE_CONTAINER")
    who: dict[str, Any] = {name: found[-1][name] for name in same}
    for end in ("LOCAL", "REMOTE"):
        for kind in ("PROCESS", "FATHER_PROCESS"):
            process = found[-1][f"{end}_{kind}"]
            who[f"{end}_{kind}"] = {key: process[key] for key in ("PID", "UID", "PROCESS_PATH")}
    return who, [sum(one[name] for one in found) for name in ("BYTES_SENT", "BYTES_RCVD")]


def check_talk(path: Path, address: str) -> None:
    lines = [check_line(line) for line in path.read_text().splitlines()]
    whole = ENDS | WHO | DOCKER
    to_web = [one for one in lines if one.get("IPV4_REMOTE_ADDR") == address
              and one["L4_REMOTE_PORT"] == 80]  # fmt: skip
    flows = [one for one in to_web if one["EVENT_TYPE"] == "FLOW"]
    assert flows
    for one in flows:
        missing = (whole | TCP) - pieces(one)
        assert not missing, f"{missing} of {one}"
        assert one["LOCAL_CONTAINER"]["DOCKER"]["NAME"] == "shell"
        assert one["REMOTE_CONTAINER"]["DOCKER"]["NAME"] == "web"
    connects = [one for one in to_web if one["EVENT_TYPE"] == "CONNECT"]
    assert len(connects) == 1
    assert all(whole <= pieces(one) for one in connects)
    links = {one["LOCAL_CONTAINER"]["DOCKER"]["NAME"]: one
             for one in lines if "ifName" in one and "LOCAL_CONTAINER" in one}  # fmt: skip
    assert links.keys() == {"shell", "web"}
    assert all(pieces(one) >= COUNTERS | DOCKER for one in links.values())


def check_sums(sums: list[str]) -> None:
    shell, web = sorted((check_line(line, "summary") for line in sums), key=lambda one: one["NAME"])
    assert (shell["NAME"], web["NAME"]) == ("shell", "web")
    assert (shell["AS_CLIENT"]["FLOWS"], shell["AS_SERVER"]["FLOWS"]) == (1, 0)
    assert (web["AS_CLIENT"]["FLOWS"], web["AS_SERVER"]["FLOWS"]) == (0, 1)
    assert web["BYTES_RCVD"] == shell["BYTES_SENT"] > 3000
    assert min(shell["AS_CLIENT"]["RTT"], web["AS_SERVER"]["RTT"]) > 0
    assert shell["LOCAL_CONTAINER"]["DOCKER"]["NAME"] == "shell"


@contextlib.contextmanager
def inside(docker: Docker, name: str) -> Iterator[Actor]:
    actor = docker.python(name)
    try:
        actor.do("result = 1")  # waits until it runs
        yield actor
    finally:
        actor.leave()
