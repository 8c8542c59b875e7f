"""Tests what an identity proves: who may make a cgroup, what is confirmed, and how it is shown."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probe.enrich.container_owners import ContainerOwners
from probe.flow.codes import UNCONFIRMED, UNCONFIRMED_PATH, OwnerSource
from probe.flow.owner import Container, ContainerNames, Owner, Process
from probe.jsonlines.owner_objects import owner_members
from probe.mapping.tables import Privacy
from probe.owners.container import container_cgroup, read_place
from probe.owners.process import owner_from_row
from probe.owners.users import UserNames
from probe.view.describe import container_text
from probe.view.flows import FlowTable
from tests.support.records import flow_records
from tests.unit.test_container_owners import Known
from tests.unit.test_docker_api import WEB, Answer, Api, Daemon, ask, serve, until

__all__ = ["ask", "serve"]  # fixtures

ID, OTHER = "ab" * 32, "cd" * 32
POD = "2c48913c-b29f-11e7-9350-020968147796"


@pytest.mark.parametrize(
    ("cgroup", "delegated", "is_doubtful"),
    [
        (f"/system.slice/docker-{ID}.scope", 0, False),
        (f"/docker/{ID}", 0, False),
        # its own cgroup, and those below, may be delegated to it
        (f"/system.slice/docker-{ID}.scope", 1, False),
        (f"/system.slice/docker-{ID}.scope/init.scope", 1, False),
        (f"/system.slice/docker-{ID}.scope/init.scope", 2, False),
        ("/lxc.payload.web", 1, False),
        # a user may make any cgroup in his own
        (f"/user.slice/user-1000.slice/user@1000.service/docker-{ID}.scope", 1, False),
        (f"/user.slice/user-1000.slice/user@1000.service/docker-{ID}.scope", 2, True),
        (f"/user.slice/user-1000.slice/user@1000.service/app.slice/docker-{ID}.scope", 3, True),
        (f"/mine/docker/{ID}", 3, True),
        (f"/mine/kubepods/pod{POD}", 2, True),
        (f"/kubepods/burstable/pod{POD}/{ID}", 1, False),
        (f"/kubepods/burstable/pod{POD}/{ID}", 2, False),
        # so may a container
        (f"/docker/{OTHER}/docker/{ID}", 0, True),
        ("/user.slice/user-1000.slice/session-1.scope", 2, False),
        ("/", 0, False),
    ],
)
def test_who_may_have_made_a_cgroup(cgroup: str, delegated: int, is_doubtful: bool) -> None:
    assert read_place(cgroup, delegated).is_doubtful == is_doubtful


def test_the_part_of_a_path_that_is_the_container() -> None:
    assert container_cgroup(f"/docker/{ID}/init.scope", ID) == f"/docker/{ID}"
    assert container_cgroup(f"/docker/{OTHER}", ID) == ""


class Placed(Known):
    """A runtime that knows in which cgroups it has put its containers."""

    def __init__(self, **cgroups: str) -> None:
        super().__init__()
        self.cgroups = cgroups

    def is_at(self, container_id: str, cgroup: str, pod_uid: str) -> bool | None:
        known = self.cgroups.get(container_id)
        return None if known is None else known == cgroup


def told(owners: ContainerOwners, owner: Owner) -> tuple[str, bool]:
    found = owners[owners.add(owner)]
    return found.container.name, found.container.is_unconfirmed


def test_what_a_runtime_confirms() -> None:
    runtime = Placed(here="/docker/here")
    for container_id in ("here", "known"):
        runtime.add(container_id, ContainerNames(container_id))
    owners = ContainerOwners((runtime,))
    doubtful = Owner(
        container=Container("known", is_doubtful=True, is_unconfirmed=True), cgroup="/user/known"
    )
    assert told(owners, Owner(container=Container("here"), cgroup="/docker/here")) == (
        "here",
        False,
    )
    assert told(
        owners,
        replace(doubtful, cgroup="/docker/here", container=replace(doubtful.container, id="here")),
    ) == (
        "here",
        False,
    )
    assert told(owners, Owner(container=Container("here"), cgroup="/user/here")) == ("", True)
    assert told(owners, Owner(container=Container("known"), cgroup="/docker/known")) == (
        "known",
        False,
    )
    assert told(owners, doubtful) == ("known", True)
    assert told(owners, Owner(container=Container("strange"), cgroup="/docker/strange")) == (
        "",
        True,
    )
    assert told(owners, Owner(Process(1), cgroup="/init.scope")) == ("", False)


def test_without_a_runtime_only_a_doubtful_place_is_unconfirmed() -> None:
    owners = ContainerOwners()
    assert told(owners, Owner(container=Container("aa"))) == ("", False)
    assert told(
        owners, Owner(container=Container("aa", is_doubtful=True, is_unconfirmed=True))
    ) == (
        "",
        True,
    )


def test_it_is_confirmed_as_soon_as_the_runtime_knows() -> None:
    runtime = Known()
    owners = ContainerOwners((runtime,))
    index = owners.add(Owner(container=Container("aa")))
    assert owners[index].container.is_unconfirmed
    runtime.add("aa", ContainerNames("web"))
    assert owners.refresh() == [index]
    assert not owners[index].container.is_unconfirmed


def test_it_is_told_in_records() -> None:
    """Records show doubt beside the way in which the owner was found."""
    owners = ContainerOwners((Known(),))
    plain = owners.add(Owner(Process(1)))
    strange = owners.add(Owner(Process(2), container=Container("aa")))
    told_path = owners.add(Owner(Process(3, path_source="exec"), container=Container("aa")))
    records = flow_records(3)
    records["source_owner"] = [plain, strange, told_path]
    records["destination_owner"] = [strange, 0, 4000]
    records["source_owner_source"] = OwnerSource.SOCKET_CALL
    records["destination_owner_source"] = 0
    owners.mark_unconfirmed(records)
    assert records["source_owner_source"].tolist() == [
        1, 1 + UNCONFIRMED, 1 + UNCONFIRMED + UNCONFIRMED_PATH,
    ]  # fmt: skip
    assert records["destination_owner_source"].tolist() == [UNCONFIRMED, 0, 0]
    owners.release(strange)
    owners.release(told_path)
    records["source_owner_source"] = 1
    owners.mark_unconfirmed(records)
    assert records["source_owner_source"].tolist() == [1, 1, 1]


def test_it_is_told_in_words() -> None:
    owner = Owner(
        Process(1, path="/usr/sbin/sshd", path_source="exec"),
        container=Container(ID, is_unconfirmed=True),
    )
    found = owner_members(owner, "LOCAL", Privacy(), "KUBE")
    assert found["LOCAL_PROCESS"]["PATH_UNCONFIRMED"] is True
    assert found["LOCAL_CONTAINER"]["UNCONFIRMED"] is True
    assert container_text(owner) == ID[:12] + "?"
    found = owner_members(owner, "LOCAL", Privacy(paths=False), "KUBE")
    assert "PATH_UNCONFIRMED" not in found["LOCAL_PROCESS"]
    plain = replace(
        owner,
        process=replace(owner.process, path_source="walked"),
        container=replace(owner.container, is_unconfirmed=False),
    )
    found = owner_members(plain, "LOCAL", Privacy(), "KUBE")
    assert "PATH_UNCONFIRMED" not in found["LOCAL_PROCESS"]
    assert "UNCONFIRMED" not in found["LOCAL_CONTAINER"]


def test_the_live_view_shows_it() -> None:
    table = FlowTable()
    record: dict[str, Any] = {
        "protocolIdentifier": 6, "sourceIPv4Address": "10.0.0.1", "sourceTransportPort": 9,
        "destinationIPv4Address": "10.0.0.2", "destinationTransportPort": 8,
        "SRC_PROC_CONTAINER_ID": ID, "sourceOwnerOrigin": 17,
        "DST_PROC_CONTAINER_ID": OTHER, "destinationOwnerOrigin": 1,
    }  # fmt: skip
    table.observe([record], 1.0)
    (flow,) = table.newest(1)
    assert (flow.client.container, flow.server.container) == (f"{ID[:12]}?", OTHER[:12])


class Here(Daemon):
    """A Docker whose containers run in this process."""

    def __call__(self, connection: Any, path: str) -> None:
        if path.endswith("/aa/json"):
            body = b'{"State": {"Pid": %d}}' % os.getpid()
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
        else:
            super().__call__(connection, path)


def test_docker_is_asked_where_a_container_is(
    serve: Callable[[Answer], Api], ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probe.owners.docker.read_cgroup", lambda _: f"/docker/{ID}/sub")
    daemon = Here()
    daemon.containers = [{**WEB, "Id": ID, "State": "running"}, {**WEB, "Id": "bb"}]
    api = serve(lambda connection, path: daemon(connection, path.replace(ID, "aa")))
    names = ask(api.url)
    until(lambda: names.is_at(ID, f"/docker/{ID}", "") is not None)
    assert names.is_at(ID, f"/docker/{ID}", "")
    assert names.is_at(ID, f"/docker/{ID}/other", "")
    assert names.is_at(ID, f"/docker/{ID}x", "") is False
    assert names.is_at(ID, f"/user.slice/mine/docker-{ID}.scope", "") is False
    assert names.is_at("bb", "/docker/bb", "") is None


def owner_row(**columns: Any) -> Any:
    """Returns a struct owner_row with the columns that are read."""
    text = {"path": 256, "parent_path": 256, "cgroup": 256, "name": 16, "parent_name": 16}
    numbers = ("pid", "start_ns", "parent_pid", "uid", "gid", "parent_uid", "parent_gid", "vm_size",
               "vm_peak", "parent_vm_size", "parent_vm_peak", "path_source", "cgroup_delegated",
               "mount_ns", "user_ns", "parent_mount_ns", "parent_user_ns")  # fmt: skip
    row = np.zeros((), [(name, "u1", length) for name, length in text.items()]
                   + [(name, "u8") for name in numbers])  # fmt: skip
    for name, value in columns.items():
        if name in text:
            octets = value.encode()
            row[name][: len(octets)] = list(octets)
        else:
            row[name] = value
    return row


def owner_of(**columns: Any) -> Owner:
    return owner_from_row(owner_row(**columns), UserNames(), lambda _: "")


def own_start_ns() -> int:
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def test_a_path_that_a_process_may_have_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's path is read while the process lives. A short path belongs to a later exec."""
    here = {
        "pid": os.getpid(), "start_ns": own_start_ns(), "path_source": 2, "path": "/usr/sbin/sshd",
        "name": Path("/proc/self/comm").read_text().strip(),
    }  # fmt: skip
    found = owner_of(**here)
    assert (found.process.path, found.process.path_source) == ("/usr/sbin/sshd", "exec")
    deep = "/d" * 45 + "/program"
    monkeypatch.setattr("probe.owners.process.read_path", lambda _: deep)
    found = owner_of(**here)
    assert (found.process.path, found.process.path_source) == (deep, "walked")
    for another in ({"start_ns": 0}, {"name": "other"}, {"pid": 2**22 + 1}):
        found = owner_of(**{**here, **another})
        assert (found.process.path, found.process.path_source) == ("/usr/sbin/sshd", "exec")


def test_a_delegated_cgroup_of_a_row() -> None:
    cgroup = f"/user.slice/mine/docker-{ID}.scope"
    assert not owner_of(pid=2**22 + 1, cgroup=cgroup).container.is_doubtful
    assert owner_of(pid=2**22 + 1, cgroup=cgroup, cgroup_delegated=2).container.is_doubtful
    assert owner_of(cgroup=cgroup, cgroup_delegated=2).container.is_unconfirmed
