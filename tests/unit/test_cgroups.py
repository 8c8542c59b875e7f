"""Tests the way from sockets' cgroup ids to containers and units.

Folders stand in for cgroups: both have inodes as ids.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from probe.flow.owner import OwnerTable
from probe.owners.cgroups import CgroupOwners, CgroupPaths

CONTAINER = "c0ffee" * 10 + "beef"


def make(root: Path, path: str) -> int:
    folder = root / path
    folder.mkdir(parents=True)
    return os.stat(folder).st_ino


def test_a_cgroup_is_found_by_its_id(tmp_path: Path) -> None:
    unit = make(tmp_path, "system.slice/nginx.service")
    container = make(tmp_path, f"system.slice/docker-{CONTAINER}.scope")
    table = OwnerTable()
    owners = CgroupOwners(table, str(tmp_path))
    owner = table[owners.index(container)]
    assert (owner.container.id, owner.unit, owner.process.pid) == (CONTAINER, "", None)
    assert owner.cgroup == f"/system.slice/docker-{CONTAINER}.scope"
    assert owner.node.name == os.uname().nodename
    assert table[owners.index(unit)].unit == "nginx.service"
    assert owners.index(container) == owners.index(container)
    assert len(table) == 3


def test_what_names_nothing_has_no_owner(tmp_path: Path) -> None:
    plain = make(tmp_path, "user.slice")
    table = OwnerTable()
    owners = CgroupOwners(table, str(tmp_path))
    assert [owners.index(one) for one in (0, plain, 2**40)] == [0, 0, 0]
    assert len(table) == 1
    assert CgroupOwners(table, "").index(plain) == 0


def test_a_look_costs_and_so_is_rare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10**12]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    paths = CgroupPaths(str(tmp_path))
    first = make(tmp_path, "a.service")
    assert paths.find(first) == "/a.service"
    second = make(tmp_path, "b.service")
    assert paths.find(second) == ""
    (tmp_path / "a.service").rmdir()
    now[0] += 2 * 10**9
    assert paths.find(second) == "/b.service"
    assert paths.find(first) == "/a.service"  # a unit's last connections may end after the unit


def test_owners_that_nothing_names_are_forgotten(tmp_path: Path) -> None:
    ids = [make(tmp_path, name) for name in ("a.service", "b.service", "user.slice")]
    table = OwnerTable()
    owners = CgroupOwners(table, str(tmp_path))
    a, b, nothing = map(owners.index, ids)
    assert nothing == 0
    assert owners.sweep({b}) == [a]
    assert len(table) == 2
    assert owners.index(ids[1]) == b
