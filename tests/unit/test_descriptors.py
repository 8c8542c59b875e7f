"""Tests how processes and their descriptors are read from a /proc of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe.owners.descriptors import DescriptorSearch
from probe.owners.procfs import choose_cgroup, owner_from_proc, read_identity
from probe.owners.users import Names, Namespaces


class Numbers:
    """A source of user names in which each name is the number."""

    def find(self, pid: int, uid: int, gid: int, spaces: Namespaces, container: str = "") -> Names:
        return Names(str(uid), str(gid))


LONG = 10**10
ID = "ab" * 32


def process(proc: Path, pid: int, *sockets: int, name: str = "server") -> None:
    (proc / str(pid) / "fd").mkdir(parents=True)
    (proc / str(pid) / "fd" / "0").symlink_to("/dev/null")
    for at, inode in enumerate(sockets, 3):
        (proc / str(pid) / "fd" / str(at)).symlink_to(f"socket:[{inode}]")
    numbers = ["0"] * 50
    numbers[1], numbers[19] = "7", "555"
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(numbers)}\n")
    (proc / str(pid) / "status").write_text("Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n")
    (proc / str(pid) / "cgroup").write_text(f"1:name=systemd:/x\n0::/docker/{ID}\n")
    (proc / str(pid) / "exe").symlink_to("/usr/bin/server (deleted)")


def test_who_holds_a_socket(tmp_path: Path) -> None:
    process(tmp_path, 10, 100, 101)
    process(tmp_path, 11, 110)
    search = DescriptorSearch(str(tmp_path))
    assert search.search([101, 110], [10, 11], LONG) == {101: 10, 110: 11}
    assert search.search([100], [11, 10], LONG) == {100: 10}


def test_what_nobody_holds_is_given_up_after_a_whole_round(tmp_path: Path) -> None:
    process(tmp_path, 10, 100)
    search = DescriptorSearch(str(tmp_path))
    for _ in range(4):
        assert search.search([999], [10, 12], LONG) == {}
        if search.given_up:
            break
    assert search.given_up == {999}


def test_the_search_is_bounded_and_goes_on(tmp_path: Path) -> None:
    many = range(1000, 1400)
    process(tmp_path, 10, *many)
    search = DescriptorSearch(str(tmp_path))
    found = search.search(many, [10], 0)
    calls = 1
    while len(found) < len(many):
        before = len(found)
        found |= search.search([], [10], 0)
        calls += 1
        assert calls < 100 or len(found) > before
    assert calls > 3
    assert set(found.values()) == {10}


@pytest.mark.parametrize("name", ["server", "a) (b", ""])
def test_a_process_as_an_owner(tmp_path: Path, name: str) -> None:
    process(tmp_path, 7, name="init")
    process(tmp_path, 10, name=name)
    identity = read_identity(10, str(tmp_path))
    assert identity is not None
    line = "command {}".format
    owner = owner_from_proc(identity, Numbers(), line, "node", str(tmp_path))
    assert (owner.process.pid, owner.process.name, owner.parent.pid) == (10, name, 7)
    assert (owner.parent.name, owner.process.path) == ("init", "/usr/bin/server")
    assert (owner.process.uid, owner.process.gid, owner.process.user_name) == (1, 5, "1")
    assert (owner.container.id, owner.process.command_line) == (ID, "command 10")
    assert read_identity(99, str(tmp_path)) is None


def test_the_hierarchy_that_names_a_container_wins() -> None:
    memory, unified = f"4:memory:/docker/{ID}\n", "0::/system.slice/ssh.service\n"
    assert choose_cgroup(memory + unified) == f"/docker/{ID}"
    assert choose_cgroup(f"4:memory:/\n0::/docker/{ID}\n") == f"/docker/{ID}"
    assert choose_cgroup("4:cpu,memory:/a\n" + unified) == "/a"
    assert choose_cgroup(unified) == "/system.slice/ssh.service"
    assert choose_cgroup("") == ""
