"""Tests names of users in containers, in cases that only root can make."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from probe.owners.own_files import OwnNames, ask_own_names
from probe.owners.users import Names, UserNames, read_namespaces

CONTAINER = "ab" * 32


def test_a_device_is_not_opened(tmp_path: Path) -> None:
    """The device would never end."""
    path = tmp_path / "root" / "etc" / "passwd"
    path.parent.mkdir(parents=True)
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
    everybody = ((0, 0, 2**32),)
    answer = ask_own_names(str(tmp_path))
    assert answer
    assert answer.names == OwnNames(uids=everybody, gids=everybody)


def test_a_private_mount_namespace_for_real() -> None:
    """One mount namespace has other users, and one has those of the host."""
    script = "import os,sys; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()"
    change = 'f=$(mktemp) && echo "own:x:0:0::/:/" > $f && mount --bind $f /etc/passwd && '
    for before, container, wanted in (
        ("", "", Names("root", "root")),
        ("", CONTAINER, Names("root", "root")),
        (change, CONTAINER, Names("own", "root", True)),
        (change, "", Names("", "", True)),
    ):
        command = f'{before} exec {sys.executable} -c "{script}"'
        with subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as child:  # fmt: skip
            assert child.stdout
            assert child.stdout.read(1) == b"x"
            spaces = read_namespaces(child.pid)
            assert spaces
            assert spaces != read_namespaces("self")
            found = UserNames().find(child.pid, 0, 0, spaces, container)
            child.communicate()
        assert found == wanted
