"""Finds the names of users and groups, each number once, in the right database.

The files that a process sees decide what a number means. The host's database serves processes of
the host: those in its mount and user namespaces, or with the same user files (as a systemd unit
with a private /tmp). A process in a container has the names of its own /etc/passwd and /etc/group
(``own_files``). Any other process has no names.
"""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from probe.owners.own_files import Answer, OwnNames, ask_own_names

_MOST_PLACES = 1024
#: Inode of the first user namespace (PROC_USER_INIT_INO), the only one if the kernel has no others.
_FIRST_USER_NAMESPACE = 0xEFFFFFFD


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Inodes of the namespaces of a process; 0 if unknown."""

    mount: int = 0
    user: int = 0


_UNKNOWN = Namespaces()


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a user and a group, '' for none.

    ``are_own`` is True for names inside a container, which say nothing about users of the host.
    """

    user: str = ""
    group: str = ""
    are_own: bool = False


class Users(Protocol):
    """The interface that finds names of users: ``UserNames``, or a test's."""

    def find(
        self, pid: int, uid: int, gid: int, namespaces: Namespaces, container_id: str = ""
    ) -> Names: ...


class UserNames:
    """Finds names for processes by their namespaces.

    Names of the host are kept for the life of the probe. Those of other places are kept for the
    ``_MOST_PLACES`` latest mount namespaces. With ``reads_own`` False, names inside containers are
    not read.
    """

    def __init__(self, reads_own: bool = True, proc: str = "/proc") -> None:
        self._reads_own, self._proc = reads_own, proc
        self._host = read_namespaces(1, proc) or read_namespaces("self", proc) or Namespaces()
        self._places: dict[tuple[Namespaces, str], Answer] = {}

    def find(
        self, pid: int, uid: int, gid: int, namespaces: Namespaces, container_id: str = ""
    ) -> Names:
        """Returns the names for the process ``pid``, which may be gone.

        ``namespaces`` are those of the process, and ``container_id`` is '' outside of containers.
        If the namespaces are unknown, every process outside of containers counts as the host's.
        """
        is_of_host = not container_id if namespaces == _UNKNOWN else namespaces == self._host
        if is_of_host:
            return Names(user_name(uid), group_name(gid))
        if namespaces == _UNKNOWN:
            return Names()
        own = self._own(pid, namespaces, container_id)
        if own is None:
            return Names(user_name(uid), group_name(gid))
        user, group = own.find(uid, gid)
        return Names(user, group, are_own=True)

    def _own(self, pid: int, namespaces: Namespaces, container_id: str) -> OwnNames | None:
        """Returns the names inside a container, or None if it has the files of the host.

        If they cannot be read now, the next process of the container may find them.
        """
        key = namespaces, container_id
        if key not in self._places:
            if read_namespaces(pid, self._proc) != namespaces:
                return OwnNames()  # gone, and another process may have its number
            answer = self._ask(pid, namespaces, container_id)
            if answer is None:
                return OwnNames()
            while len(self._places) >= _MOST_PLACES:
                del self._places[next(iter(self._places))]
            self._places[key] = answer
        return self._places[key].names

    def _ask(self, pid: int, namespaces: Namespaces, container_id: str) -> Answer | None:
        """Asks for names; the host's files are those of process 1, or of the probe itself."""
        is_near = namespaces.user == self._host.user
        hosts = (f"{self._proc}/1", f"{self._proc}/self") if is_near else ()
        may_read = bool(container_id) and self._reads_own
        return ask_own_names(f"{self._proc}/{pid}", hosts, may_read)


def read_namespaces(pid: int | str, proc: str = "/proc") -> Namespaces | None:
    """Returns the namespaces of a process, None if it is gone or may not be read."""
    try:
        return Namespaces(*(_inode(f"{proc}/{pid}/ns/{name}") for name in ("mnt", "user")))
    except OSError:
        return None


def _inode(path: str) -> int:
    """Returns the inode of a namespace, 0 if the kernel has no namespaces of that kind."""
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        os.stat(os.path.dirname(path))  # raises if there is no process
        return _FIRST_USER_NAMESPACE if path.endswith("/user") else 0


@lru_cache(65536)
def user_name(uid: int) -> str:
    """Returns the host's name for a uid, '' if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return ""


@lru_cache(4096)
def group_name(gid: int) -> str:
    """Returns the host's name for a gid, '' if it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return ""
