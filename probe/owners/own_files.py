"""Reads the user files of a container: /etc/passwd and /etc/group below the root of a process.

Processes of the container may put anything in their place. So the kernel resolves each path within
that root (openat2), only a regular file is opened, and at most ``_MOST_OCTETS`` of it are read.

A file system in user space may never answer. So a thread reads the files, and such a file system
costs this thread and the names of one process. An answer that comes late serves the next process.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

PASSWD, GROUP = "/etc/passwd", "/etc/group"
_FILES = (PASSWD, GROUP)
_MOST_OCTETS = 1 << 18
_MOST_NAMES = 4096
_MOST_NAME = 64
_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_IN_ROOT, _RESOLVE_NO_MAGICLINKS = 0x10, 0x02
_PATIENCE_S = 0.1
#: With so many files late within so many seconds, no further file is read.
_MOST_LATE, _LATE_S = 4, 60.0


@dataclass(frozen=True, slots=True)
class OwnNames:
    """User and group names by the numbers inside a container.

    ``uids`` and ``gids`` are the ranges that its user namespace maps: (first inside, first outside,
    count). Processes are known by their numbers outside.
    """

    users: dict[int, str] = field(default_factory=dict)
    groups: dict[int, str] = field(default_factory=dict)
    uids: tuple[tuple[int, int, int], ...] = ()
    gids: tuple[tuple[int, int, int], ...] = ()

    def find(self, uid: int, gid: int) -> tuple[str, str]:
        """Returns the names of a user and a group, '' for a number without a name."""
        user, group = _inside(self.uids, uid), _inside(self.gids, gid)
        return self.users.get(user, ""), self.groups.get(group, "")


def _inside(ranges: Iterable[tuple[int, int, int]], number: int) -> int:
    """Returns the number inside the namespace, -1 if it is not mapped."""
    for inside, outside, count in ranges:
        if outside <= number < outside + count:
            return inside + number - outside
    return -1


class Answer:
    """The result of a thread that reads names, which may take long or never end."""

    def __init__(self, read: Callable[[], OwnNames | None]) -> None:
        self._read = read
        #: Empty until the files are read, and for ever if that failed.
        self.names: OwnNames | None = OwnNames()
        self._thread = threading.Thread(target=self._run, name="files of a container", daemon=True)
        self._thread.start()
        self._thread.join(_PATIENCE_S)
        self.is_late = self._thread.is_alive()
        self._came_at = time.monotonic()

    def counts_as_late(self) -> bool:
        recent = time.monotonic() - self._came_at < _LATE_S
        return self.is_late and (recent or self._thread.is_alive())

    def _run(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.names = self._read()


class _Reading:
    """Starts threads that read, unless too many did not answer: each may delay the probe."""

    def __init__(self) -> None:
        self._late: list[Answer] = []
        self._has_warned = False

    def ask(self, read: Callable[[], OwnNames | None]) -> Answer | None:
        """Returns the answer of a new thread, or None if too many threads are late."""
        self._late = [answer for answer in self._late if answer.counts_as_late()]
        if len(self._late) >= _MOST_LATE:
            self._warn()
            return None
        answer = Answer(read)
        if answer.is_late:
            self._late.append(answer)
        return answer

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning("files of users in containers do not answer: some names are not told")


_READING = _Reading()


def ask_own_names(process: str, hosts: Sequence[str] = (), may_read: bool = True) -> Answer | None:
    """Returns the answer with the names of ``process`` (its folder in /proc).

    The names are None if it has the same files as one of ``hosts``. They are empty if the process
    is gone, if it may not be read, or without ``may_read``. Returns None instead of an answer if
    too many files were slow.
    """

    def read() -> OwnNames | None:
        if any(_has_same_files(host, process) for host in hosts):
            return None
        return _read(process) if may_read else OwnNames()

    return _READING.ask(read)


def _has_same_files(host: str, process: str) -> bool:
    """Returns True if both have the same files; a file that both lack is the same, too."""
    with contextlib.suppress(OSError):
        return all(_identity(host, path) == _identity(process, path) for path in _FILES)
    return False


def _read(process: str) -> OwnNames:
    return OwnNames(
        _read_names(process, PASSWD),
        _read_names(process, GROUP),
        _read_ranges(f"{process}/uid_map"),
        _read_ranges(f"{process}/gid_map"),
    )


def _read_names(process: str, path: str) -> dict[int, str]:
    """Returns the first name of each number, as the C library does."""
    found: dict[int, str] = {}
    for name, number in _entries(_read_octets(process, path)):
        if len(found) >= _MOST_NAMES:
            break
        found.setdefault(number, name)
    return found


def _entries(text: bytes) -> Iterator[tuple[str, int]]:
    for line in text.decode("utf-8", "replace").split("\n"):
        name, *rest = line.split(":", 3)
        if len(rest) < 3 or not 0 < len(name) <= _MOST_NAME or name[0] in "+-#":
            continue
        if rest[1].isascii() and rest[1].isdigit() and len(rest[1]) <= 10:
            yield name, int(rest[1])


def _read_ranges(path: str) -> tuple[tuple[int, int, int], ...]:
    """Returns the mapped ranges; without user namespaces every number maps to itself."""
    try:
        lines = Path(path).read_text().splitlines()
    except FileNotFoundError:
        return ((0, 0, 2**32),)
    found = (tuple(map(int, line.split())) for line in lines)
    return tuple((one[0], one[1], one[2]) for one in found if len(one) == 3)


def _read_octets(process: str, path: str) -> bytes:
    """Returns the whole lines of a regular file, b'' for anything else."""
    with contextlib.suppress(OSError), _found_in(process, path) as place:
        if stat.S_ISREG(os.fstat(place).st_mode):
            # opens by the descriptor, in case another file has taken this path since
            with open(f"/proc/self/fd/{place}", "rb", buffering=0) as file:
                octets = file.read(_MOST_OCTETS) or b""
            return octets if len(octets) < _MOST_OCTETS else octets.rpartition(b"\n")[0]
    return b""


def _identity(process: str, path: str) -> tuple[int, int] | None:
    try:
        with _found_in(process, path) as place:
            found = os.fstat(place)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _found_in(process: str, path: str) -> Iterator[int]:
    """Yields an O_PATH descriptor of a file; links are followed within the root."""
    flags = os.O_PATH | os.O_CLOEXEC
    root = os.open(f"{process}/root", flags | os.O_DIRECTORY)
    try:
        how = struct.pack("QQQ", flags, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        found = int(_libc().syscall(_OPENAT2, root, path.encode(), how, len(how)))
        if found < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), path)
    finally:
        os.close(root)
    try:
        yield found
    finally:
        os.close(found)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
