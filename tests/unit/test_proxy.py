"""Tests that Docker's userland proxy gets the container that its command line names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from probe.enrich.container_owners import ContainerOwners
from probe.flow.owner import ContainerNames, Owner, Process
from probe.owners import proxy
from probe.owners.proxy import Proxies, read_target
from tests.unit.test_container_owners import Known

ARGUMENTS = (
    "/usr/bin/docker-proxy", "-proto", "tcp", "-host-ip", "0.0.0.0", "-host-port", "8080",
    "-container-ip", "172.17.0.2", "-container-port", "80",
)  # fmt: skip
PROXY = Owner(
    Process(7, "docker-proxy", "/usr/bin/docker-proxy", path_source="walked", uid=0),
    parent=Process(5, "dockerd", "/usr/bin/dockerd", uid=0),
)


def process(proc: Path, *arguments: str) -> str:
    (proc / "7").mkdir(exist_ok=True)
    (proc / "7" / "cmdline").write_bytes("".join(f"{one}\0" for one in arguments).encode())
    return str(proc)


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        (ARGUMENTS, "172.17.0.2"),
        (("docker-proxy", "--container-ip", "fd00::2"), "fd00::2"),
        (("docker-proxy", "-container-ip=172.17.0.3"), "172.17.0.3"),
        (("docker-proxy", "-container-ip"), ""),
        (("docker-proxy", "-container-ip", "a name"), ""),
        (("docker-proxy", "container-ip", "172.17.0.2"), ""),
        (("docker-proxy", "-container-ipx", "172.17.0.2"), ""),
        ((), ""),
        (("\udc80".encode("utf-8", "surrogateescape").decode("latin-1"),), ""),
    ],
)
def test_the_target(tmp_path: Path, arguments: tuple[str, ...], target: str) -> None:
    assert read_target(7, process(tmp_path, *arguments)) == target


def test_a_process_that_is_gone(tmp_path: Path) -> None:
    assert read_target(8, str(tmp_path)) == ""


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gives every proxy the same target. The list has the pids that were asked for."""
    asked: list[int] = []

    def read(pid: int) -> str:
        asked.append(pid)
        return "172.17.0.2"

    monkeypatch.setattr(proxy, "read_target", read)
    return asked


@pytest.mark.parametrize(
    "owner",
    [
        replace(PROXY, process=replace(PROXY.process, name="nginx")),
        replace(PROXY, process=replace(PROXY.process, path="/tmp/other")),
        replace(PROXY, process=replace(PROXY.process, path_source="exec")),
        replace(PROXY, process=replace(PROXY.process, pid=None)),
        replace(PROXY, container=replace(PROXY.container, id="inner")),
        replace(PROXY, process=replace(PROXY.process, uid=1000)),
        replace(PROXY, parent=replace(PROXY.parent, uid=1000)),
        replace(PROXY, parent=replace(PROXY.parent, name="bash")),
        replace(PROXY, parent=replace(PROXY.parent, path="/tmp/other")),
        replace(PROXY, parent=replace(PROXY.parent, path="")),
        replace(PROXY, process=replace(PROXY.process, has_own_users=True)),
    ],
)
def test_nobody_else_is_asked(target: list[int], owner: Owner) -> None:
    proxies = Proxies(lambda: {"172.17.0.2": "aa"})
    proxies.note(1, owner, 0.0)
    assert proxies.resolve(0.0) == {}
    assert target == []


def test_a_proxy_that_is_there_before_its_container(target: list[int]) -> None:
    found: dict[str, str] = {}
    looks = []

    def look() -> dict[str, str]:
        looks.append(1)
        return found

    proxies = Proxies(look)
    proxies.note(1, PROXY, 10.0)
    assert (proxies.resolve(10.0), proxies.young(11.9), proxies.young(12.1)) == ({}, [1], [])
    found["172.17.0.2"] = "aa"
    assert proxies.resolve(10.5) == {}, "not too often"
    assert proxies.resolve(11.1) == {1: "aa"}
    assert proxies.resolve(20.0) == {}
    assert len(looks) == 2, "nobody is left to look for"
    proxies.note(2, PROXY, 20.0)
    proxies.forget(2)
    assert proxies.resolve(30.0) == {}


def test_its_owner_is_told_with_the_container(
    target: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Known()
    here: dict[str, str] = {}
    owners = ContainerOwners((runtime,), lambda: here)
    monkeypatch.setattr(proxy, "_PAUSE_S", 0.0)
    index = owners.add(PROXY)
    assert owners.nameless(1.0).tolist() == [index], "records wait for it"
    assert owners.refresh() == []
    here["172.17.0.2"] = "aa"
    assert owners.refresh() == [index]
    assert (owners[index].container.id, owners[index].container.name) == ("aa", "")
    assert owners[index].container.is_proxy
    runtime.add("aa", ContainerNames("web"))
    assert owners.refresh() == [index]
    assert (owners[index].process.name, owners[index].container.name) == ("docker-proxy", "web")
    owners.release(index)
    runtime.add("aa", ContainerNames("other"))
    assert owners.refresh() == []
