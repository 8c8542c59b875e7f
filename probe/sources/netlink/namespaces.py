"""Opens sockets in all network namespaces that hold a process.

Theory of operation. A look at /proc finds the namespaces by their inodes. A short-lived thread
enters each new one once and opens the probe's sockets there, which then work from everywhere. The
thread ends in that namespace, so no thread of the probe stays in a wrong one.

The sockets keep a namespace alive. So they are closed at the next look after its last process has
ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from probe.netlink.sock_diag import Namespace, open_namespace

log = logging.getLogger(__name__)

_CLONE_NEWNET = 0x40000000
_SHARE = 200  # a look takes at most half a per cent of one core
_MOST_NUMBERS = 1 << 15
#: Descriptors that the sockets of a namespace take, and those to leave for all other uses.
_EACH, _RESERVE = 3, 256


@dataclass(slots=True)
class Processes:
    """Process ids by the inode of their network namespace.

    ``closed`` are the processes that the probe may not look into. ``hidden`` are the namespaces
    that only such processes show, by a number that the kernel gives to each.
    """

    by_inode: dict[int, list[int]] = field(default_factory=dict)
    closed: list[int] = field(default_factory=list)
    hidden: set[int] = field(default_factory=set)


def find_processes(proc: str = "/proc") -> Processes:
    """Looks at every process once, and leaves out those that end meanwhile."""
    found = Processes()
    own = _table_inode(f"{proc}/self")
    for name in os.listdir(proc):
        if not name.isdecimal():
            continue
        try:
            inode = os.stat(f"{proc}/{name}/ns/net").st_ino
        except PermissionError:
            found.closed.append(int(name))
            table = _table_inode(f"{proc}/{name}")
            if table and table != own:
                found.hidden.add(table)
        except OSError:
            pass
        else:
            found.by_inode.setdefault(inode, []).append(int(name))
    return found


def _table_inode(process: str) -> int:
    """Returns the inode of /proc/PID/net/tcp, which all may read and each namespace has."""
    try:
        return os.stat(f"{process}/net/tcp").st_ino
    except OSError:
        return 0


class Namespaces:
    """The namespaces in which the probe has sockets.

    ``leave`` is called with each one before its sockets are closed. With ``has_events`` the kernel
    reports the sockets that are destroyed there.
    """

    def __init__(self, leave: Callable[[Namespace], None], has_events: bool = True) -> None:
        self.entered: dict[int, Namespace] = {}
        self.processes = Processes()
        self.looked_ns = 0  # when ``processes`` were read
        self.unseen: set[int] = set()  # inodes of all that were ever refused
        self.crowded = 0  # namespaces without descriptors, at the latest look
        self._refused: set[int] = set()  # those of ``unseen`` that exist now
        self._failed: set[int] = set()  # inodes of those whose sockets failed
        self._leave = leave
        self._has_events = has_events
        self._last_number = 0
        self._due_ns = 0

    @property
    def unseen_count(self) -> int:
        """Returns how many namespaces hold a process and are not entered, for any reason."""
        return len(self.unseen) + len(self.processes.hidden) + self.crowded

    def open_own(self) -> Namespace:
        """Opens sockets in the probe's own namespace, without privilege. Raises OSError."""
        own = self._open(os.stat("/proc/self/ns/net").st_ino)
        self.entered[own.inode] = own
        return own

    def refresh(self, is_new: bool) -> None:
        """Enters new namespaces and leaves empty ones.

        On a large host it does so less often, to take at most half a per cent of one core.
        """
        started = time.monotonic_ns()
        if started < self._due_ns:
            return
        cost = time.process_time_ns()  # the clock would count other programs, too
        self.processes, self.looked_ns = find_processes(), started
        present = self.processes.by_inode
        self._refused &= present.keys()
        self._failed &= present.keys()
        coming = [inode for inode in present
                  if inode not in self.entered and inode not in self._refused]  # fmt: skip
        coming = self._choose(coming)
        if coming:
            self._enter({inode: present[inode] for inode in coming}, is_new)
        own = os.stat("/proc/self/ns/net").st_ino
        if own not in self.entered:  # a /proc that hides processes does not show it
            self.open_own().is_new = False
        for inode in [i for i in self.entered if i not in present and i != own]:
            self.drop(inode)
        self._due_ns = time.monotonic_ns() + _SHARE * (time.process_time_ns() - cost)

    def drop(self, inode: int, failed: bool = False) -> None:
        """Leaves a namespace that is gone, or whose sockets ``failed``.

        A failed one is entered again at the next look. Its sockets then count as older than the
        probe.
        """
        gone = self.entered.pop(inode)
        if failed:
            self._failed.add(inode)
        self._leave(gone)
        gone.close()

    def _choose(self, coming: list[int]) -> list[int]:
        """Returns as many of ``coming`` as descriptors allow, and warns about the others."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        room = max(0, (limit - _RESERVE) // _EACH - len(self.entered))
        crowded = max(0, len(coming) - room)
        # an object without events lives for one look only, so it would warn at each
        if crowded and not self.crowded and self._has_events:
            log.warning(
                "%d network namespaces are not looked into: the limit of %d open files is too low. "
                "Raise it, as with LimitNOFILE= of systemd or ulimit -n",
                crowded, limit,
            )  # fmt: skip
        self.crowded = crowded
        return coming[:room]

    def _enter(self, coming: dict[int, list[int]], is_new: bool) -> None:
        thread = threading.Thread(target=self._enter_all, args=(coming, is_new))
        thread.start()
        thread.join()

    def _enter_all(self, coming: dict[int, list[int]], is_new: bool) -> None:
        """Enters namespaces, in a thread that ends in the last of them."""
        for inode, pids in coming.items():
            try:
                self._enter_one(inode, pids, is_new)
            except (PermissionError, _RefusedError) as error:
                self.unseen.add(inode)
                self._refused.add(inode)
                log.debug("network namespace %d may not be entered: %s", inode, error)
            except OSError as error:
                log.debug("network namespace %d: %s", inode, error)

    def _enter_one(self, inode: int, pids: list[int], is_new: bool) -> None:
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if os.fstat(descriptor).st_ino != inode:
                        continue
                    _set_namespace(descriptor)
                finally:
                    os.close(descriptor)
                entered = self._open(inode)
                entered.is_new = is_new and inode not in self._failed
                self.entered[inode] = entered
                return

    def _open(self, inode: int) -> Namespace:
        return open_namespace(self._next_number(), inode, self._has_events)

    def _next_number(self) -> int:
        """Returns a number that no entered namespace has.

        Numbers repeat after thousands of namespaces, when nothing refers to the first any more.
        """
        taken = {namespace.number for namespace in self.entered.values()}
        while True:
            self._last_number = self._last_number % _MOST_NUMBERS + 1
            if self._last_number not in taken:
                return self._last_number

    def close(self) -> None:
        for namespace in self.entered.values():
            namespace.close()
        self.entered.clear()


class _RefusedError(Exception):
    """Raised if setns fails, as with EPERM."""


def _set_namespace(descriptor: int) -> None:
    """Sets the calling thread's network namespace (os.setns needs Python 3.12)."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise _RefusedError(os.strerror(code))
