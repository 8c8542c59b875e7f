"""The Netlink collector: reads TCP counters from sock_diag, for any user, since Linux 4.2.

Theory of operation. Each ``read`` dumps all TCP sockets in every network namespace that the probe
may enter. It adds the final counters of the sockets that were destroyed since. docs/sources.md
describes what this can see and what it cannot.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection

import numpy as np

from probe.errors import KernelError
from probe.flow.batch import FlowBatch
from probe.flow.columns import EVENT_DTYPE, ROW_DTYPE
from probe.flow.key_index import U64
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows, Slots, concatenate_rows, take_rows
from probe.kernel.host import cgroup_root, has_containers_in_v1
from probe.netlink.inet_diag import (
    CLOSE,
    INFO,
    LISTEN,
    SOCKET_MEMORY,
    STATES,
    Sockets,
    find_attributes,
)
from probe.netlink.sock_diag import Buffer, Namespace
from probe.owners.cgroups import CgroupOwners
from probe.owners.process import read_command_line
from probe.owners.users import Users
from probe.sources.netlink.attribution import Attribution
from probe.sources.netlink.counters import Flags, read_times
from probe.sources.netlink.ledger import Ledger, Place
from probe.sources.netlink.namespaces import Namespaces
from probe.sources.netlink.owners import Listeners, ProcessOwners
from probe.sources.netlink.watch import EventWatch

log = logging.getLogger(__name__)

_FIRST_SEARCH_NS = 300_000_000  # for the owners of all sockets at the start
_ALL_STATES = 0xFFF
_TICK_NS = 20_000_000  # tolerance, as the kernel's times here are as fine as its ticks


class NetlinkSource:
    """Meters from ``open`` to ``close``; the module's docstring describes ``read``.

    owners: the table that the rows' ``owner`` column will index. users: finds names of users and
    groups. command_lines: whether to read them (from /proc, when an identity is first seen).
    are_metered: returns True for the cookies that another source meters, whose owners are not
    sought.
    """

    tells_events = False

    def __init__(
        self,
        owners: OwnerTable,
        users: Users,
        command_lines: bool = False,
        are_metered: Callable[[U64], Flags] | None = None,
    ) -> None:
        self.owners = owners
        self.hooks: list[str] = []
        self.snapshot_ns = self.snapshot_cpu_ns = 0
        self.host_netns = 0
        self._are_metered = are_metered
        self._buffer = Buffer()
        self._ledger = Ledger(time.time_ns())
        self._listeners = Listeners()
        self._spaces = Namespaces(self._leave)
        self._processes = ProcessOwners(
            owners, users, read_command_line if command_lines else _no_command_line
        )
        self._cgroups = CgroupOwners(owners, _socket_cgroups())
        self._attribution = Attribution(
            self._ledger, self._listeners, self._processes, self._cgroups, self._spaces
        )
        self._left: list[Rows] = []  # last rows of namespaces that were left
        self._watched: dict[int, Namespace] = {}
        self._is_open = False
        self._lost_events = self._failed_dumps = self._interrupted_dumps = 0
        self._opened_ns = 0
        self._busy: set[int] = set()  # namespaces that had endings to read
        self._stack = contextlib.ExitStack()

    # -- opening ----------------------------------------------------------------------------------
    def open(self) -> None:
        """Looks at all sockets and their owners; the sockets count from now on.

        Logs what cannot be seen. Raises KernelError if the kernel has no sock_diag.
        """
        try:
            self._watch = EventWatch()
            self._stack.callback(self._watch.close)
            self._stack.callback(self._spaces.close)
            self.host_netns = self._spaces.open_own().cookie
            self._spaces.refresh(is_new=False)
            self._opened_ns = time.monotonic_ns()
            self._dump_all()
        except OSError as error:
            self.close()
            raise KernelError(
                f"this kernel does not answer sock_diag ({error.strerror}): "
                "load its modules inet_diag and tcp_diag"
            ) from error
        except BaseException:
            self.close()
            raise
        self._is_open = True
        known = np.flatnonzero(self._ledger.seen["key"] > 0)
        self._attribution.find(known, _FIRST_SEARCH_NS)
        self.hooks = ["sock_diag tcp", "sock_diag tcp6", "SKNLGRP_INET_TCP_DESTROY",
                      "SKNLGRP_INET6_TCP_DESTROY"]  # fmt: skip
        self._say_what_is_seen()

    def _say_what_is_seen(self) -> None:
        processes, unseen = self._spaces.processes, []
        hidden = len(self._spaces.unseen) + len(processes.hidden)
        if hidden:
            unseen.append(f"{hidden} other network namespaces (needs CAP_SYS_ADMIN, "
                          "CAP_SYS_PTRACE)")  # fmt: skip
        unreadable = max(len(processes.closed), self._attribution.search.unreadable)
        if unreadable:
            unseen.append(f"what {unreadable} processes have open (needs CAP_SYS_PTRACE)")
        say = log.warning if unseen else log.info
        say(
            "metering TCP in %d network namespaces by Netlink, which has no counters of UDP%s",
            len(self._spaces.entered),
            f"; not seen: {', '.join(unseen)}" if unseen else "",
        )

    # -- reading ----------------------------------------------------------------------------------
    def fileno(self) -> int:
        """Returns a descriptor that is readable when it is time to ``drain``."""
        return self._watch.fileno()

    def read(self, is_last: bool = False) -> FlowBatch:
        """Returns all TCP sockets with traffic since the last read, and all that ended.

        ``is_last`` changes nothing, because no row waits for a later read.
        """
        started, cpu_started = time.perf_counter_ns(), time.thread_time_ns()
        self._spaces.refresh(is_new=True)
        parts, slots = self._dump_all()
        if self._are_metered:
            slots = slots[~self._are_metered(self._ledger.rows["cookie"][slots])]
        owned = self._attribution.find(slots)
        for rows, at in parts:  # the owners just found are also those of these rows
            there = at > 0
            for name in ("owner", "owner_source"):
                rows[name] = np.where(there, self._ledger.rows[name][at], rows[name])
        late = owned[~np.isin(owned, slots)]
        ended = self._read_endings(list(self._spaces.entered.values()))
        left, self._left = self._left, []
        self.snapshot_ns = time.perf_counter_ns() - started
        self.snapshot_cpu_ns = time.thread_time_ns() - cpu_started
        return _batch([rows for rows, _ in parts] + [self._ledger.renew(late)] + left + ended)

    def drain(self) -> FlowBatch:
        """Returns the sockets that ended since the last read, without a dump."""
        fired = self._watch.take_fired()
        rows = self._read_endings(fired)
        self._watch.rest([one for one in fired if one.number in self._busy])
        return _batch(rows)

    def read_events(self) -> Rows:
        """Returns no events: sock_diag reports only the end of a socket."""
        return np.zeros(0, EVENT_DTYPE)

    def list_sockets(self, protocol: int) -> Sockets:
        """Returns SOCKET rows of all TCP or UDP sockets, with memory, also without counters."""
        parts: list[Sockets] = []
        for namespace in self._spaces.entered.values():
            for _ in namespace.dump(self._buffer, INFO | SOCKET_MEMORY, _ALL_STATES, protocol):
                messages = find_attributes(self._buffer.words, *self._buffer.take())
                parts.append(messages.decode(np.arange(len(messages))))
        return np.concatenate(parts)

    @property
    def namespaces(self) -> frozenset[int]:
        """Returns the inodes of the network namespaces that are metered."""
        return frozenset(self._spaces.entered)

    # -- dumps ------------------------------------------------------------------------------------
    def _dump_all(self) -> tuple[list[tuple[Rows, Slots]], Slots]:
        """Returns rows with their slots, in lots, and all those slots together."""
        parts: list[tuple[Rows, Slots]] = []
        dumped: list[int] = []
        self._ledger.begin()
        self._listeners.begin()
        for namespace in list(self._spaces.entered.values()):
            if self._dump(namespace, parts):
                dumped.append(namespace.number)
        self._take_dump(parts)
        for namespace in self._spaces.entered.values():
            namespace.is_new |= namespace.number in dumped  # later sockets there are new
        self._listeners.finish(dumped)
        vanished = self._ledger.finish(dumped, time.monotonic_ns())
        parts.append((vanished, np.zeros(len(vanished), np.int64)))
        slots = np.concatenate([at for _, at in parts])
        return parts, slots[slots > 0]

    def _dump(self, namespace: Namespace, parts: list[tuple[Rows, Slots]]) -> bool:
        """Dumps a namespace. Returns False if that failed; its sockets are then opened again."""
        if namespace.number not in self._watched:
            self._watch.add(namespace)
            self._watched[namespace.number] = namespace
        try:
            for dump in namespace.dump(self._buffer, INFO | SOCKET_MEMORY, STATES):
                if self._buffer.is_full:
                    self._take_dump(parts)
                self._interrupted_dumps += dump.done and dump.interrupted
        except OSError as error:
            if not self._is_open and len(self._spaces.entered) == 1:
                raise
            self._failed_dumps += 1
            log.debug("dump of network namespace %d: %s", namespace.inode, error)
            self._take_dump(parts)
            self._spaces.drop(namespace.inode, failed=True)
            return False
        return True

    def _take_dump(self, parts: list[tuple[Rows, Slots]]) -> None:
        messages = find_attributes(self._buffer.words, *self._buffer.take())
        if not len(messages):
            return
        chosen = messages.decode(self._ledger.find_changed(messages))
        listening = chosen["state"] == LISTEN
        if listening.any():
            self._listeners.observe(chosen[listening])
        connected = ~listening & (chosen["state"] != CLOSE) & (chosen["has_info"] > 0)
        now = time.monotonic_ns()
        connected &= chosen["remote_port"] > 0
        for place, sockets in self._by_place(take_rows(chosen, np.flatnonzero(connected))):
            heard = self._listeners.have(sockets)
            parts.append(self._ledger.observe(sockets, place, heard, now))

    def _by_place(self, sockets: Sockets) -> list[tuple[Place, Sockets]]:
        numbers = sockets["namespace"]
        places = {one.number: one for one in self._watched.values()}
        return [
            (_place(places[number]), take_rows(sockets, np.flatnonzero(numbers == number)))
            for number in sorted(set(numbers.tolist()))
        ]

    # -- endings ----------------------------------------------------------------------------------
    def _read_endings(self, namespaces: list[Namespace]) -> list[Rows]:
        """Returns last rows of destroyed sockets, and notes which namespaces had any."""
        parts: list[Rows] = []
        self._busy = set()
        for namespace in namespaces:
            lost = namespace.lost_events
            while True:
                before = self._buffer.end
                more = namespace.receive_events(self._buffer)
                if self._buffer.end > before:
                    self._busy.add(namespace.number)
                if not more:
                    break
                parts += self._take_endings()
            self._lost_events += namespace.lost_events - lost
        return parts + self._take_endings()

    def _take_endings(self) -> list[Rows]:
        messages = find_attributes(self._buffer.words, *self._buffer.take())
        if not len(messages):
            return []
        chosen = messages.decode(np.arange(len(messages)))
        chosen = chosen[chosen["has_info"] > 0]
        known, now = self._ledger.knows(chosen), time.monotonic_ns()
        # A refused opener has no peer any more. A socket that was closed before the probe started
        # may end late, while a descriptor holds it: its traffic does not count.
        first, _ = read_times(chosen, now)
        counts = (chosen["remote_port"] > 0) & (chosen["local_port"] > 0)
        counts &= first >= self._opened_ns - _TICK_NS
        parts = []
        for place, sockets in self._by_place(chosen[known | counts]):
            rows = self._ledger.end(sockets, place, self._listeners.have(sockets), now)
            self._attribution.own_ended(rows, place.number)
            parts.append(rows)
        return parts

    def _leave(self, namespace: Namespace) -> None:
        """Keeps the last rows of a namespace: of sockets that ended, and of those that remain."""
        self._left += self._read_endings([namespace])
        self._left.append(self._ledger.leave(namespace.number))
        self._listeners.forget(namespace.number)
        if self._watched.pop(namespace.number, None):
            self._watch.remove(namespace)

    # -- keeping house -----------------------------------------------------------------------------
    def losses(self) -> dict[str, int]:
        """Returns what could not be seen or was missed, by cause, never reset."""
        return {
            "namespaces_unseen": self._spaces.unseen_count,
            "owners_unreadable": self._attribution.unreadable,
            "endings_lost": self._ledger.lost_endings,
            "ending_bursts_lost": self._lost_events,
            "dumps_failed": self._failed_dumps,
            "dumps_interrupted": self._interrupted_dumps,
        }

    def wants_sweep(self) -> bool:
        return False  # owners are found at a bounded rate

    def sweep_owners(self, in_use: Collection[int]) -> list[int]:
        """Forgets owners that ended and that nothing names, and returns their indices."""
        named = {*in_use, *self._ledger.owners(), *self._listeners.owners()}
        return self._processes.sweep(named) + self._cgroups.sweep(named)

    def close(self) -> None:
        """Leaves all namespaces, so that nothing stays open."""
        self._stack.close()


def _place(namespace: Namespace) -> Place:
    return Place(namespace.number, namespace.cookie, namespace.inode, namespace.is_new)


def _batch(parts: list[Rows]) -> FlowBatch:
    filled = [part for part in parts if len(part)]
    return FlowBatch(concatenate_rows(filled) if filled else np.zeros(0, ROW_DTYPE))


def _socket_cgroups() -> str:
    """Returns the mount of cgroup v2, '' if its ids on sockets name no containers."""
    if has_containers_in_v1():
        return ""
    try:
        return cgroup_root()
    except KernelError:
        return ""


def _no_command_line(_: int) -> str:
    return ""
