"""Names of users and groups: whose database tells them, and each number once.

A number means what the file system of a process says. So the host's databases are asked for a
process of the host only: one in the host's mount and user namespaces, or with the same files of
users as the host (a systemd unit with a private /tmp). A process in a container has the names of
its own /etc/passwd and /etc/group (``own_files``), any other process has none.
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
#: Its inode (PROC_USER_INIT_INO), and the only one where the kernel has no user namespaces.
_FIRST_USER_NAMESPACE = 0xEFFFFFFD


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Inodes of the namespaces of a process; 0 where unknown."""

    mount: int = 0
    user: int = 0


_UNKNOWN = Namespaces()


@dataclass(frozen=True, slots=True)
class Names:
    """Of a user and a group, '' where there is none. ``are_own``: they are those of a container,
    and say nothing of users of the host."""

    user: str = ""
    group: str = ""
    are_own: bool = False


class Users(Protocol):
    """Who tells names of users: ``UserNames``, or a test."""

    def find(
        self, pid: int, uid: int, gid: int, namespaces: Namespaces, container_id: str = ""
    ) -> Names: ...


class UserNames:
    """Names for processes, by the namespaces that they are in.

    Those of the host are kept for the life of the probe, those of others for the ``_MOST_PLACES``
    latest mount namespaces. ``reads_own``: names inside of containers are read there at all.
    """

    def __init__(self, reads_own: bool = True, proc: str = "/proc") -> None:
        self._reads_own, self._proc = reads_own, proc
        self._host = read_namespaces(1, proc) or read_namespaces("self", proc) or Namespaces()
        self._places: dict[tuple[Namespaces, str], Answer] = {}

    def find(
        self, pid: int, uid: int, gid: int, namespaces: Namespaces, container_id: str = ""
    ) -> Names:
        """``namespaces`` of the process ``pid``, which may be gone; ``container_id``: '' in none,
        and where namespaces are unknown that alone tells a process of the host."""
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
        """None: the same as the host's. What cannot be found out now may be with the next
        process there."""
        key = namespaces, container_id
        if key not in self._places:
            if read_namespaces(pid, self._proc) != namespaces:
                return OwnNames()  # gone, and its number may be another's
            answer = self._ask(pid, namespaces, container_id)
            if answer is None:
                return OwnNames()
            while len(self._places) >= _MOST_PLACES:
                del self._places[next(iter(self._places))]
            self._places[key] = answer
        return self._places[key].names

    def _ask(self, pid: int, namespaces: Namespaces, container_id: str) -> Answer | None:
        """The host's files are those of its first process, or else ours."""
        is_near = namespaces.user == self._host.user
        hosts = (f"{self._proc}/1", f"{self._proc}/self") if is_near else ()
        may_read = bool(container_id) and self._reads_own
        return ask_own_names(f"{self._proc}/{pid}", hosts, may_read)


def read_namespaces(pid: int | str, proc: str = "/proc") -> Namespaces | None:
    """None where the process is gone, or may not be looked at."""
    try:
        return Namespaces(*(_inode(f"{proc}/{pid}/ns/{name}") for name in ("mnt", "user")))
    except OSError:
        return None


def _inode(path: str) -> int:
    """0 where the kernel has no namespaces of that kind."""
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        os.stat(os.path.dirname(path))  # raises where there is no process
        return _FIRST_USER_NAMESPACE if path.endswith("/user") else 0


@lru_cache(65536)
def user_name(uid: int) -> str:
    """As the host calls it; '' for a uid without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return ""


@lru_cache(4096)
def group_name(gid: int) -> str:
    """As the host calls it; '' for a gid without a name."""
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return ""
