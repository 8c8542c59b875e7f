"""Tests names of users: the host's for its own processes, a container's for those in it."""

from __future__ import annotations

import os
import pwd
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe.flow.filter import parse_rule
from probe.flow.owner import Owner, OwnerTable, Process
from probe.owners import own_files
from probe.owners.own_files import OwnNames, ask_own_names
from probe.owners.users import Names, Namespaces, UserNames, read_namespaces
from tests.support.records import flow_records

CONTAINER = "ab" * 32
IDENTITY_MAP = "         0          0 4294967295\n"
HOST_USER = pwd.getpwall()[1]


class World:
    """A /proc with processes that have namespaces and roots.

    Links to namespaces are folders here, since only their inodes count.
    """

    def __init__(self, folder: Path) -> None:
        self.proc, self._folder = folder / "proc", folder
        for name in ("host", "user"):
            (folder / name).mkdir()
        self.add(1, "host")
        (self.proc / "self").symlink_to("1")

    def add(
        self, pid: int, mount: str, root: Path | None = None, user: str = "user",
        uid_map: str = IDENTITY_MAP,
    ) -> Namespaces:  # fmt: skip
        process = self.proc / str(pid)
        (process / "ns").mkdir(parents=True)
        for name, target in (("mnt", mount), ("user", user)):
            (self._folder / target).mkdir(exist_ok=True)
            (process / "ns" / name).symlink_to(self._folder / target)
        (process / "root").symlink_to(root or "/")
        for name in ("uid_map", "gid_map"):
            (process / name).write_text(uid_map)
        found = read_namespaces(pid, str(self.proc))
        assert found
        return found

    def root(self, passwd: str = "", group: str = "") -> Path:
        root = self._folder / f"root{time.monotonic_ns()}"
        (root / "etc").mkdir(parents=True)
        (root / "etc" / "passwd").write_text(passwd)
        (root / "etc" / "group").write_text(group)
        return root

    def users(self, reads_own: bool = True) -> UserNames:
        return UserNames(reads_own, str(self.proc))


@pytest.fixture(autouse=True)
def _files_have_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_files, "_PATIENCE_S", 120.0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


PASSWD = f"root:x:0:0::/:/bin/sh\nnode:x:{HOST_USER.pw_uid}:1000::/:/bin/sh\n"
GROUP = "wheel:x:1000:a,b\n"


def test_a_process_of_the_host(world: World) -> None:
    spaces = world.add(7, "host")
    found = world.users().find(7, HOST_USER.pw_uid, 0, spaces)
    assert found == Names(HOST_USER.pw_name, "root")


def test_a_container_has_names_of_its_own(world: World) -> None:
    spaces = world.add(7, "inside", world.root(PASSWD, GROUP))
    users = world.users()
    assert users.find(7, HOST_USER.pw_uid, 1000, spaces, CONTAINER) == Names("node", "wheel", True)
    assert users.find(7, 4242, 4242, spaces, CONTAINER) == Names("", "", True)


def test_they_may_be_left_alone(world: World) -> None:
    spaces = world.add(7, "inside", world.root(PASSWD, GROUP))
    users = world.users(reads_own=False)
    assert users.find(7, HOST_USER.pw_uid, 1000, spaces, CONTAINER) == Names("", "", True)


def test_a_file_system_that_is_no_container_has_no_names(world: World) -> None:
    """Any user who may unshare can put their own files there."""
    spaces = world.add(7, "inside", world.root(PASSWD, GROUP))
    assert world.users().find(7, 0, 0, spaces) == Names("", "", True)


def test_the_next_process_there_may_be_gone_already(world: World) -> None:
    spaces = world.add(7, "inside", world.root(PASSWD, GROUP))
    users = world.users()
    users.find(7, 0, 0, spaces, CONTAINER)
    assert users.find(8, 0, 1000, spaces, CONTAINER) == Names("root", "wheel", True)
    assert users.find(8, 0, 1000, Namespaces(1, 2), CONTAINER) == Names("", "", True)


def test_a_number_that_is_another_process_now(world: World) -> None:
    world.add(7, "inside", world.root(PASSWD, GROUP))
    assert world.users().find(7, 0, 0, Namespaces(1, 2), CONTAINER) == Names("", "", True)


def test_a_unit_with_a_mount_namespace_has_the_users_of_the_host(world: World) -> None:
    """systemd makes such a namespace for PrivateTmp=; it has the host's files."""
    spaces = world.add(7, "private")
    assert world.users().find(7, HOST_USER.pw_uid, 0, spaces) == Names(HOST_USER.pw_name, "root")


def test_another_user_namespace(world: World) -> None:
    """Its numbers are translated. A number that it does not map has no name."""
    spaces = world.add(7, "inside", world.root(PASSWD, GROUP), "theirs", "0 100000 65536\n")
    users = world.users()
    assert users.find(7, 100000, 101000, spaces, CONTAINER) == Names("root", "wheel", True)
    assert users.find(7, 0, 0, spaces, CONTAINER) == Names("", "", True)


def test_another_user_namespace_on_the_files_of_the_host(world: World) -> None:
    spaces = world.add(7, "private", None, "theirs", "0 1000 1\n")
    assert world.users().find(7, 1000, 1000, spaces) == Names("", "", True)


def test_namespaces_that_may_not_be_read(world: World) -> None:
    users = world.users()
    unknown = Namespaces()
    assert users.find(7, 0, 0, unknown) == Names("root", "root")
    assert users.find(7, 0, 0, unknown, CONTAINER) == Names()


@pytest.fixture
def process(world: World) -> Path:
    """Returns the /proc entry of a process whose root the test fills."""
    world.add(7, "inside", world.root())
    return world.proc / "7"


def put(process: Path) -> Path:
    """Returns the path of the process' file of users, which does not exist yet."""
    path = process / "root" / "etc" / "passwd"
    path.unlink()
    return path


def own_users(process: Path) -> dict[int, str]:
    answer = ask_own_names(str(process))
    assert answer
    assert answer.names
    return answer.names.users


def test_a_fifo_is_not_opened(process: Path) -> None:
    os.mkfifo(put(process))
    assert own_users(process) == {}


def test_a_pipe_and_a_folder_are_not_opened(process: Path) -> None:
    path = put(process)
    path.mkdir()
    assert own_users(process) == {}
    path.rmdir()
    os.mkfifo(path)
    assert own_users(process) == {}


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../../../../../../etc/passwd"])
def test_a_link_does_not_lead_out(process: Path, target: str) -> None:
    path = put(process)
    path.symlink_to(target)  # the link leads to itself there
    assert own_users(process) == {}
    path.unlink()
    (path.parent / "users").write_text("here:x:5:5::/:/\n")
    path.symlink_to("/etc/users")
    assert own_users(process) == {5: "here"}


def test_a_huge_file_is_read_for_a_bounded_part(process: Path) -> None:
    with put(process).open("w") as file:
        file.write("first:x:1:1::/:/\n")
        for number in range(100_000):
            file.write(f"user{number}:x:{number + 10}:1::/:/\n")
        file.truncate(1 << 40)
    found = own_users(process)
    assert found[1] == "first"
    assert len(found) <= 4096


@pytest.mark.parametrize(
    "text",
    ["", ":x:1:1\n", "a:x:-1:1\n", "a:x:٣:1\n", "a:x:99999999999:1\n", "+::::\n", "a\n", "\0" * 99,
     "x" * 65 + ":x:1:1\n", "#a:x:1:1\n"],
)  # fmt: skip
def test_lines_that_name_nobody(process: Path, text: str) -> None:
    put(process).write_text(text)
    assert own_users(process) == {}


def test_the_first_name_of_a_number_counts(process: Path) -> None:
    put(process).write_bytes(b"a:x:1:1::/:/\nb:x:1:1::/:/\n\xff:x:2:2::/:/")
    assert own_users(process) == {1: "a", 2: "\ufffd"}


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Delays reads in a container until the gate is set, as a file system in user space may."""
    opened, read = threading.Event(), own_files._read

    def wait(process: str) -> OwnNames:
        opened.wait()
        return read(process)

    monkeypatch.setattr(own_files, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(own_files, "_READING", own_files._Reading())
    monkeypatch.setattr(own_files, "_read", wait)
    yield opened
    opened.set()


def test_files_that_never_answer_cost_a_name_each(
    gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [ask_own_names("/proc/1") for _ in range(8)]
    assert [answer is not None for answer in answers] == [True] * 4 + [False] * 4
    assert [answer.names for answer in answers if answer] == [OwnNames()] * 4
    assert len(caplog.messages) == 1


def test_slow_files_are_asked_again_after_a_while(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        assert ask_own_names("/proc/1")
    monkeypatch.setattr(own_files, "_LATE_S", 0.0)
    assert ask_own_names("/proc/1") is None  # the query still waits
    gate.set()
    while ask_own_names("/proc/1") is None:
        time.sleep(0.01)


def test_a_late_answer_is_for_the_next_process_there(gate: threading.Event, world: World) -> None:
    spaces = world.add(7, "inside", world.root(PASSWD, GROUP))
    users = world.users()
    assert users.find(7, 0, 1000, spaces, CONTAINER) == Names("", "", True)
    gate.set()
    while users.find(8, 0, 1000, spaces, CONTAINER) != Names("root", "wheel", True):
        time.sleep(0.01)


def test_a_filter_by_user_means_the_host(world: World) -> None:
    """A name means the host's user; a number means any user with that number."""
    owners = OwnerTable()
    ours = owners.add(Owner(Process(1, uid=1000, user_name="ada")))
    theirs = owners.add(Owner(Process(2, uid=1000, user_name="ada", has_own_users=True)))
    rows = flow_records(2)
    rows["source_owner"] = [ours, theirs]
    for text, wanted in (("user=ada", [True, False]), ("user=1000", [True, True])):
        found = parse_rule(text).matches(rows, owners, ["source_owner"])
        assert found.tolist() == wanted
