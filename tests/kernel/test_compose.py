"""Tests the probe in a container with Dockerfile and docker-compose.yml as they are.

docker-compose.yml is for Debian's docker-compose 1.29. compose.yaml, for Compose 2, has other
capabilities, which Debian's Docker does not know. They are tried without it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.test_containers import SERVE, when_serving
from tests.kernel.test_names import veth
from tests.support.lab.base_image import import_base_image
from tests.support.lab.docker import IMAGE, Docker, Engine, docker_builder, docker_daemon
from tests.support.lab.hosts import run, two_hosts
from tests.support.meters.shell import ROOT

PROJECT = "compose-test"
PROBE_IMAGE = f"{PROJECT}_sockflow"
_MOST_OCTETS = 250_000_000
#: Settings of `docker build`, because its containers have no network of their own.
_BUILD = "services: {sockflow: {build: {network: host}}, nfcapd: {build: {network: host}}}\n"
_PREFIX = re.compile(r"^\S+ +\| ", re.MULTILINE)

Compose = Callable[..., str]


def compose_of(engine: Engine, *files: str) -> Compose:
    settings = {"DOCKER_HOST": engine.url, "DOCKER_SOCKET": str(engine.socket),
                "COMPOSE_PROJECT_NAME": PROJECT, "DOCKER_BUILDKIT": "0"}  # fmt: skip
    chosen = [word for file in ("docker-compose.yml", *files) for word in ("-f", file)]

    def compose(*arguments: str) -> str:
        found = subprocess.run(
            ["docker-compose", *chosen, *arguments],
            cwd=ROOT, env={**os.environ, **settings}, text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert found.returncode == 0, f"{arguments}: {found.stdout[-4000:]}{found.stderr[-4000:]}"
        return found.stdout

    return compose


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Yields a folder that is removed.

    Images are too large for pytest's folders, which are kept.
    """
    with tempfile.TemporaryDirectory(prefix="sockflow-images-") as found:
        yield Path(found)


@pytest.fixture(scope="module")
def docker(directory: Path) -> Iterator[Docker]:
    """Yields a Docker with the images of docker-compose.yml."""
    (directory / "build.yml").write_text(_BUILD)
    with docker_builder(directory) as engine:
        import_base_image(engine, directory)
        compose_of(engine, str(directory / "build.yml"))("build", "--parallel")
    with two_hosts("sc") as (_, host), docker_daemon(host, directory) as found:
        yield found


@pytest.fixture
def compose(docker: Docker) -> Iterator[Compose]:
    found = compose_of(docker)
    yield found
    found("down", "--volumes", "--timeout", "20")
    docker.remove_all()


def start(compose: Compose) -> None:
    compose("up", "-d", "--no-build")
    deadline = time.monotonic() + 120
    while not any("ifName" in line for line in logged(compose)):
        assert time.monotonic() < deadline, compose("logs", "--no-color")
        time.sleep(0.2)


def logged(compose: Compose) -> list[str]:
    """Returns the lines that the probe has written: objects and messages."""
    text = compose("logs", "--no-color", "sockflow")
    return [line for line in _PREFIX.sub("", text).splitlines() if line.startswith(("{", "sock"))]


def name(found: dict[str, Any], end: str) -> str:
    container: str = found.get(f"{end}_CONTAINER", {}).get("DOCKER", {}).get("NAME", "")
    return container


def test_the_containers_of_the_host(docker: Docker, compose: Compose) -> None:
    """nfdump's output and the probe's log have every flow. The log has the names of both ends."""
    start(compose)
    server = docker.start("--name", "web", *SERVE)
    address = when_serving(docker, server)
    how: dict[str, tuple[str, ...]] = {f"short-{number}": () for number in range(5)}
    how |= {"of-a-user": ("--user", "1000:1000"), "with-host": ("--network", "host")}
    for client, options in how.items():
        docker("run", "--rm", "--name", client, *options, IMAGE, "nc", address, "80")
    time.sleep(1.5)
    within = veth(docker, server)
    compose("stop", "--timeout", "20")  # stops the probe first, as it depends on nfcapd
    lines = logged(compose)
    assert not [line for line in lines if "WARNING" in line]
    assert "sockflow: lost: nothing" in lines

    objects = [json.loads(line) for line in lines if line.startswith("{")]
    flows = {
        name(one, "LOCAL"): one
        for one in objects
        if one.get("EVENT_TYPE") == "FLOW" and one.get("L4_REMOTE_PORT") == 80
    }
    assert flows.keys() == how.keys()
    assert {name(one, "REMOTE") for one in flows.values()} == {"web"}
    assert {one["OUTPUT_SNMP"] for one in flows.values()} == {within}

    shown = compose("run", "--rm", "-T", "nfcapd", "nfdump", "-R", "/flows", "-q", "-N",
                    "-o", "fmt:%sap,%dap,%pkt,%byt,%in,%out")  # fmt: skip
    rows = {tuple(word.strip() for word in line.split(",")) for line in shown.splitlines()}
    wanted = set()
    for one in flows.values():
        ends = f"{one['IPV4_LOCAL_ADDR']}:{one['L4_LOCAL_PORT']}", f"{address}:80"
        ways = str(one["INPUT_SNMP"]), str(one["OUTPUT_SNMP"])
        wanted.add((*ends, str(one["PKTS_SENT"]), str(one["BYTES_SENT"]), *ways))
        wanted.add((*ends[::-1], str(one["PKTS_RCVD"]), str(one["BYTES_RCVD"]), *ways[::-1]))
    assert len(wanted) == 2 * len(how)
    assert wanted <= rows


def test_what_the_container_is_given(docker: Docker, compose: Compose) -> None:
    """It has namespaces of the host and only the named capabilities, and its image is small."""
    start(compose)
    (found,) = json.loads(docker("inspect", f"{PROJECT}_sockflow_1"))
    given = found["HostConfig"]
    assert not given["Privileged"]
    assert (given["PidMode"], given["NetworkMode"]) == ("host", "host")
    assert (given["CapDrop"], sorted(given["CapAdd"])) == (["ALL"], capabilities())
    assert not [mount for mount in found["Mounts"] if mount["RW"]]
    octets = int(docker("image", "inspect", "-f", "{{.Size}}", PROBE_IMAGE))
    print(f"image of the probe: {octets / 1e6:.0f} MB")
    assert octets < _MOST_OCTETS


def test_without_the_socket_of_docker(docker: Docker) -> None:
    """Records still have the containers' ids."""
    server = docker.start("--name", "web", *SERVE)
    address = when_serving(docker, server)
    added = [word for one in capabilities() for word in ("--cap-add", one)]
    probe = docker.start(
        "--network", "host", "--pid", "host", "--cap-drop", "ALL", *added,
        "-v", "/sys/fs/cgroup:/sys/fs/cgroup:ro",
        PROBE_IMAGE, "run", "-e", "json:-", "--duration", "6", "--include", "port=80",
    )  # fmt: skip
    time.sleep(3)
    docker("run", "--rm", IMAGE, "nc", address, "80")
    docker("wait", probe)
    objects = [json.loads(line) for line in docker("logs", probe).splitlines()]
    docker.remove_all()
    (flow,) = [one for one in objects if one.get("EVENT_TYPE") == "FLOW"]
    assert flow["REMOTE_CONTAINER"]["ID"] == server
    assert name(flow, "REMOTE") == ""


def capabilities(file: str = "docker-compose.yml") -> list[str]:
    """Returns the capabilities of the probe's container."""
    added = re.search(r"cap_add:.*\[(.*)\]", (ROOT / file).read_text())
    assert added
    return sorted(added[1].split(", "))


def probe_with(capabilities: list[str], docker: Docker, *arguments: str) -> str:
    """Returns the probe's output on Docker's host, as a process with these capabilities."""
    kept = ",".join(["-all", *(f"+{one.lower()}" for one in capabilities)])
    return run(
        "nsenter", f"--net=/run/netns/{docker.host.name}",
        "setpriv", f"--bounding-set={kept}", "--inh-caps=-all",
        sys.executable, "-m", "probe", *arguments, cwd=ROOT,
    ).stdout  # fmt: skip


@pytest.mark.parametrize("file", ["docker-compose.yml", "compose.yaml"])
def test_each_capability_is_needed(file: str, docker: Docker) -> None:
    """With all of the file, all hooks load.

    Without one, eBPF does not load or containers behind veths are unknown.
    """
    wanted = capabilities(file)
    assert "SYS_PTRACE" in wanted
    assert "sockops" in probe_with(wanted, docker, "--version")
    server = docker.start("--name", "web", *SERVE)
    for missing in wanted:
        held = [one for one in wanted if one != missing]
        loads = "sockops" in probe_with(held, docker, "--version")
        assert loads == (missing == "SYS_PTRACE"), missing
    shown = [
        probe_with(held, docker, "interfaces", "--json", "--no-docker")
        for held in (wanted, [one for one in wanted if one != "SYS_PTRACE"])
    ]
    docker.remove_all()
    assert [server[:12] in text for text in shown] == [True, False]
