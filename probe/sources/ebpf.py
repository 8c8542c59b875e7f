"""The eBPF collector: reads every TCP and UDP socket of the host as arrays of rows.

Theory of operation. One ``read`` walks all sockets in the kernel once, and adds the flow ends that
ended since the previous read. Rows of ended flows come through one ring, and owners through
another. Both are read after the snapshot, so that each row finds the owner that it names.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import select
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probe.errors import KernelError
from probe.flow.batch import FlowBatch
from probe.flow.codes import Mark, OwnerSource
from probe.flow.columns import EVENT_DTYPE, EVENT_KINDS
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows, concatenate_rows, convert_rows, take_rows
from probe.kernel import host
from probe.kernel.libbpf import IteratorLink, KernelObject, Link, LoadError
from probe.kernel.shared import Ring, map_array, map_words
from probe.owners.process import owner_from_row, read_command_line
from probe.owners.users import Users
from probe.sources.container_events import ContainerEvents

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parents[1]
#: The object of an installed package, else that of the checkout.
OBJECT = _PACKAGE / "bpf" / "sockflow.bpf.o"
if not OBJECT.exists():
    OBJECT = _PACKAGE.parent / "bpf" / "sockflow.bpf.o"

#: Programs that the probe can do without -> the loss that a warning names.
_OPTIONAL = {
    "udp_created": "owners of UDP sockets come from descriptor tables only",
    "udp_released": "UDP flows end by the idle timeout only",
    "tcp_reset_received": "RST from the peer is not in tcpControlBits",
    "tcp_reset_sent": "RST from this host is not in tcpControlBits",
    "connecting6": "a CONNECT_FAILED over IPv6 without a route has no port",
    "tcp_retransmitted": "no RETRANSMIT events",
    "cgroup_made": "no CONTAINER_START events",
    "cgroup_removed": "no CONTAINER_STOP events",
    "program_executed": "CONTAINER_START names no process",
}
#: Programs and maps that only events need.
_EVENT_PROGRAMS = (
    "connecting6", "tcp_retransmitted", "cgroup_made", "cgroup_removed", "program_executed",
)  # fmt: skip
_EVENT_MAPS = ("event_ring", "retransmits", "young_cgroups")
_SLOT_MAPS = ("slots", "slot_cookies", "listeners")
_CGROUP_SECTIONS = ("cgroup_skb/", "cgroup/", "sockops")
_ITERATOR_MAPS = {
    "snapshot_sockets": "sockets",
    "snapshot_udp_peers": "udp_peers",
    "mark_socket_owners": "sockets",
    "mark_peer_owners": "udp_peers",
    "mark_listener_owners": "listeners",
    "forget_identities": "owner_ids",
}
#: Iterators of a sweep, in this order.
_MARKING = ("mark_socket_owners", "mark_peer_owners", "mark_listener_owners", "forget_identities")
_TCP, _UDP = 6, 17
#: The most ended UDP flows that wait for the next snapshot.
_MOST_HELD = 131_072
_SWEEP_ABOVE = 8192  # as many owners are kept without a sweep
_ATTRIBUTION_NS = 5_000_000_000
_MAX_PASSES, _MAX_LAST_PASSES = 4, 64
_PROGRAMS_END_S = 1.0


class EbpfSource:
    """Meters from ``open`` to ``close``; the module's docstring describes ``read``.

    owners: the table that the rows' ``owner`` column will index. users: finds names of users and
    groups. command_lines: whether to read them (from /proc, when an identity is first seen).
    capacity: the number of rows in one snapshot pass; more sockets take further passes. events:
    whether the kernel half reports events; if not, their programs are not loaded.
    """

    def __init__(
        self,
        owners: OwnerTable,
        users: Users,
        udp_idle_ns: int = 60_000_000_000,
        capacity: int = 131_072,
        path: Path = OBJECT,
        command_lines: bool = False,
        events: bool = False,
    ) -> None:
        self.owners = owners
        self.tells_events = events
        self.hooks: list[str] = []
        self.snapshot_ns = self.snapshot_cpu_ns = 0
        self.host_netns = 0
        self._users = users
        self._command_line = read_command_line if command_lines else _no_command_line
        self._node = os.uname().nodename
        self._udp_idle_ns = udp_idle_ns
        self._capacity = capacity
        self._path = path
        # kernel owner ids, ascending, and their OwnerTable indices; 0 is the unknown owner
        self._owner_ids = np.zeros(1, np.uint64)
        self._owner_indices = np.zeros(1, np.uint64)
        self._named = 0  # owners that something named at the last sweep
        self._doubted = np.zeros(0, np.uint64)  # ids that nothing named at the last sweep
        self._links: list[Link] = []
        self._iterators: dict[str, IteratorLink] = {}
        self._held: list[Rows] = []  # UDP rows of drain, for the next read
        self._attribution_due = 0
        self._unattributed = False
        self._containers = ContainerEvents(owners)
        self._stack, self._attached = contextlib.ExitStack(), contextlib.ExitStack()

    # -- opening ----------------------------------------------------------------------------------
    def open(self) -> None:
        """Loads and attaches the programs, and finds the owners of sockets that exist already.

        Raises KernelError, which names what is missing.
        """
        host.check_capabilities()
        host.check_btf()
        root = host.cgroup_root()
        try:
            self._object = self._load()
            self._stack.callback(self._object.close)
            self._attach(root)
            self._map_memory()
            self._attribute()
            self.host_netns = _netns_cookie()
        except BaseException:
            self.close()
            raise

    def _load(self) -> KernelObject:
        """Returns the loaded object, without the optional programs that this kernel refuses."""
        left_out = [] if self.tells_events else [*_EVENT_PROGRAMS]
        luxuries = ["typed_task"]
        # Programs for events need the socket itself, which a slot does not have (bpf/slots.h).
        if not self.tells_events and host.has_kernel_function("bpf_rdonly_cast"):
            luxuries.append("use_slots")
        while True:
            kernel = self._configured(luxuries, left_out)
            try:
                kernel.load()
                return kernel
            except LoadError as error:
                kernel.close()
                if error.code == errno.EPERM:  # the verifier returns EACCES instead
                    raise KernelError(
                        "this kernel forbids eBPF to this process although it has the "
                        "capabilities: look at seccomp, lockdown and the security modules"
                    ) from error
                if luxuries:
                    log.debug("tried again without %s", luxuries.pop())
                    continue
                if error.program not in _OPTIONAL or error.program in left_out:
                    raise
                left_out.append(error.program)
                log.warning("this kernel refuses %s: %s", error.program, _OPTIONAL[error.program])

    def _configured(self, luxuries: list[str], left_out: list[str]) -> KernelObject:
        kernel = KernelObject(self._path)
        for name in luxuries:
            kernel.set_knob(name, True)
        kernel.set_knob("hash_secret", int.from_bytes(os.urandom(8), "little"))
        hz = host.jiffies_per_second()
        kernel.set_knob("jiffy_ns", 1_000_000_000 // hz if hz else 0)
        controller, hierarchy = host.container_hierarchy()
        kernel.set_knob("cgroup_v1_controller", controller)
        kernel.set_knob("container_hierarchy_id", hierarchy)
        kernel.set_knob("report_events", self.tells_events)
        kernel.set_knob("page_kib", resource.getpagesize() // 1024)
        kernel.set_knob("udp_idle_ns", self._udp_idle_ns)
        kernel.set_knob("snapshot_capacity", self._capacity)
        kernel.resize_map("snapshot", self._capacity)
        for name in left_out:
            kernel.leave_out(name)
        for name in () if self.tells_events else _EVENT_MAPS:
            kernel.leave_out_map(name)
        if "use_slots" not in luxuries:
            kernel.leave_out("mark_listener_owners")
            for name in _SLOT_MAPS:
                kernel.leave_out_map(name)
        return kernel

    def _attach(self, cgroup: str) -> None:
        fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        self._stack.callback(self._attached.close)
        try:
            for pointer, name, section in self._object.programs():
                if not self._object.is_loaded(pointer):
                    continue
                if section.startswith("iter/"):
                    link = self._object.attach_iterator(pointer, _ITERATOR_MAPS.get(name))
                    self._iterators[name] = link
                    self._stack.callback(link.close)
                    continue
                in_cgroup = section.startswith(_CGROUP_SECTIONS)
                attached = self._object.attach(pointer, fd if in_cgroup else None)
                self._attached.callback(attached.close)
                self.hooks.append(section)
        finally:
            os.close(fd)
        self.hooks.sort()

    def _map_memory(self) -> None:
        row = self._object.btf.struct_dtype("sent_row")
        FlowBatch(np.empty(0, row))  # raises where a column is missing
        self._row = row
        self._flow_ring = self._ring("flow_ring", row)
        self._owner_ring = self._ring("owner_ring", self._object.btf.struct_dtype("owner_row"))
        self._snapshot_fd = self._object.map_fd("snapshot")
        self._mark_words = self._object.map_entries("owner_marks")
        self._count = np.frombuffer(self._object.variable("snapshot_rows"), "u4")
        self._woken = np.frombuffer(self._object.variable("reader_woken"), "u4")
        self._attributed = np.frombuffer(self._object.variable("was_attributed"), "u4")
        self._is_last = np.frombuffer(self._object.variable("is_last_pass"), "u4")
        self._udp_peers = np.frombuffer(self._object.variable("udp_peer_count"), "u4")
        losses = self._object.btf.struct_dtype("losses")
        self._losses = np.frombuffer(self._object.variable("losses"), losses)[0]
        self._epoll = select.epoll()
        self._stack.callback(self._epoll.close)
        rings = ["flow_ring", "owner_ring"]
        if self.tells_events:
            self._event_ring = self._ring("event_ring", self._event_dtype())
            rings.append("event_ring")
        for name in rings:
            self._epoll.register(self._object.map_fd(name), select.EPOLLIN | select.EPOLLET)

    def _event_dtype(self) -> np.dtype[np.void]:
        """Returns the dtype of the kernel half's events, which has the columns of EVENT_DTYPE."""
        told = self._object.btf.struct_dtype("event_row")
        if missing := EVENT_KINDS.keys() - set(told.names or ()):
            raise KernelError(f"struct event_row lacks {', '.join(missing)}: run `make -C bpf`")
        return told

    def _ring(self, name: str, dtype: np.dtype[np.void]) -> Ring:
        ring = Ring(self._object.map_fd(name), self._object.map_entries(name), dtype)
        self._stack.callback(ring.close)
        return ring

    # -- reading ----------------------------------------------------------------------------------
    def fileno(self) -> int:
        """Returns a descriptor that is readable when a ring has enough for a ``drain``."""
        return self._epoll.fileno()

    def read(self, is_last: bool = False) -> FlowBatch:
        """Returns all flow ends with traffic since the last read, and all that ended.

        If a socket is closed while a descriptor of it is held, the kernel half waits up to a second
        for close(), which shows the owner. It does not wait if this ``is_last``, because metering
        ends then. The rows may be the kernel's own array, which is valid until the next ``read``.
        """
        if self._unattributed and time.monotonic_ns() >= self._attribution_due:
            self._attribute()
        self._is_last[0] = is_last
        parts = self._read_snapshot()
        if is_last:
            # sockets that closed during the pass hold rows that no program will read later
            parts = [concatenate_rows(parts)]
            self._attached.close()
            parts += self._read_snapshot()
        parts += [*self._held, self._read_ended()]
        self._held = []
        if is_last:
            parts += self._read_unfinished()
        filled = [part for part in parts if len(part)]
        return self._finish(concatenate_rows(filled) if len(filled) > 1 else (filled or parts)[0])

    def drain(self) -> FlowBatch:
        """Returns TCP connections that ended since the last read, without a snapshot.

        UDP ends stay for the next read, together with their peers. If a Flow Key passes from one
        process to the next, both ends must change together, or they could not be told apart.
        """
        self._epoll.poll(0)  # edge-triggered: this poll arms it again
        rows = self._read_ended()
        is_udp = rows["protocol"] == _UDP
        if is_udp.any() and sum(map(len, self._held)) + len(rows) <= _MOST_HELD:
            self._held.append(take_rows(rows, np.flatnonzero(is_udp)))
            rows = take_rows(rows, np.flatnonzero(~is_udp))
        return self._finish(rows)

    def read_events(self) -> Rows:
        """Returns the caller's own EVENT_DTYPE: events since the last call, oldest first."""
        if not self.tells_events:
            return np.zeros(0, EVENT_DTYPE)
        rows = convert_rows(self._event_ring.read(), EVENT_DTYPE)
        self._read_owners()
        self._want_to_be_told()
        rows["owner"] = self._find_owners(rows["owner"])
        rows = self._containers.observe(rows, time.monotonic_ns())
        rows["time_ns"] += time.time_ns() - time.monotonic_ns()
        return rows

    def _read_unfinished(self) -> list[Rows]:
        """Returns rows of programs that still ran when they were detached, and later rows."""
        parts: list[Rows] = []
        deadline = time.monotonic() + _PROGRAMS_END_S
        while self._flow_ring.holds_more and time.monotonic() < deadline:
            time.sleep(0.001)
            parts.append(self._read_ended())
        return parts

    def _read_ended(self) -> Rows:
        return self._flow_ring.read()

    def _want_to_be_told(self) -> None:
        """Asks the kernel half to wake the probe again. Call it only after all rings were read.

        A wake-up during the reading would be lost, because select() then finds the rings empty. The
        kernel half would wait for this request, and not wake the probe any more.
        """
        self._woken[0] = 0

    def _read_snapshot(self) -> list[Rows]:
        parts: list[Rows] = []
        started, cpu_started = time.perf_counter_ns(), time.thread_time_ns()
        for _ in range(_MAX_LAST_PASSES if self._is_last[0] else _MAX_PASSES):
            waiting = int(self._losses["snapshot_full"])
            self._count[0] = 0
            self._iterators["snapshot_sockets"].run()
            if self._udp_peers[0]:
                self._iterators["snapshot_udp_peers"].run()
            parts.append(map_array(self._snapshot_fd, self._row, int(self._count[0])))
            if int(self._losses["snapshot_full"]) == waiting:
                break
            parts[-1] = concatenate_rows(parts[-1:])  # a copy: the next pass fills the same array
        self.snapshot_ns = time.perf_counter_ns() - started
        self.snapshot_cpu_ns = time.thread_time_ns() - cpu_started
        return parts

    def _finish(self, rows: Rows) -> FlowBatch:
        self._read_owners()
        self._want_to_be_told()
        rows["owner"] = self._find_owners(rows["owner"])
        guessed = (rows["owner"] == 0) | (rows["owner_source"] == OwnerSource.LISTENER)
        live = (rows["protocol"] == _TCP) & (rows["mark"] & Mark.CLOSED == 0)
        self._unattributed |= bool((guessed & live).any())
        return FlowBatch(rows)

    def _find_owners(self, ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Returns the table's indices for the kernel's ids, 0 if unknown."""
        at = np.searchsorted(self._owner_ids, ids, side="right") - 1
        found: NDArray[np.uint64] = np.where(
            self._owner_ids[at] == ids, self._owner_indices[at], np.uint64(0)
        )
        return found

    def _read_owners(self) -> None:
        rows = self._owner_ring.read()
        if not len(rows):
            return
        indices = [
            self.owners.add(owner_from_row(row, self._users, self._command_line, self._node))
            for row in rows
        ]
        ids = np.concatenate([self._owner_ids, rows["id"]])
        order = np.argsort(ids)  # two processors may write ids out of order
        self._owner_ids = ids[order]
        self._owner_indices = np.append(self._owner_indices, np.array(indices, np.uint64))[order]

    def _attribute(self) -> None:
        """Walks all descriptor tables, for sockets no hook saw and for workers of accepted ones.

        It runs at most every five seconds, and takes at most half a percent of one core.
        """
        started = time.monotonic_ns()
        self._iterators["attribute_sockets"].run()
        self._attributed[0] = True
        now = time.monotonic_ns()
        self._attribution_due = now + max(_ATTRIBUTION_NS, 200 * (now - started))
        self._unattributed = False

    # -- keeping house -----------------------------------------------------------------------------
    def losses(self) -> dict[str, int]:
        """Returns what the kernel half could not keep, by cause (struct losses), never reset."""
        found = {name: int(self._losses[name]) for name in self._losses.dtype.names or ()}
        found["recursion_misses"] = self._object.recursion_misses()
        return found

    def wants_sweep(self) -> bool:
        """Returns True if there are many new owners since the last sweep."""
        return len(self._owner_ids) > _SWEEP_ABOVE + 2 * self._named

    def sweep_owners(self, in_use: Collection[int]) -> list[int]:
        """Forgets owners that nothing named at this sweep and the previous one.

        Returns their indices. One sweep is not enough: rows may be on their way, and another
        processor may have found an identity just before it was forgotten.
        """
        if len(self._owner_ids) <= _SWEEP_ABOVE:
            return []
        named = self._find_named()
        in_use = {0, *in_use, *self._containers.owners_in_use()}
        named |= np.isin(self._owner_indices, np.fromiter(in_use, np.uint64, len(in_use)))
        keep = named | ~np.isin(self._owner_ids, self._doubted)
        released: list[int] = self._owner_indices[~keep].tolist()
        for index in released:
            self.owners.release(index)
        self._doubted = self._owner_ids[~named & keep]
        self._owner_ids, self._owner_indices = self._owner_ids[keep], self._owner_indices[keep]
        self._named = int(np.count_nonzero(named))
        return released

    def _find_named(self) -> NDArray[np.bool_]:
        """Returns for each owner whether a socket in the kernel may still name it."""
        words = map_words(self._object.map_fd("owner_marks"), self._mark_words)
        words[:] = 0
        for name in _MARKING:
            if name in self._iterators:
                self._iterators[name].run()
        ids = self._owner_ids
        of_word = words[(ids >> np.uint64(6)) % np.uint64(len(words))]
        named: NDArray[np.bool_] = (of_word >> (ids & np.uint64(63)) & np.uint64(1)) != 0
        return named

    def close(self) -> None:
        """Detaches everything, so that nothing stays in the kernel."""
        self._count = self._woken = self._is_last = self._udp_peers = None  # type: ignore[assignment]
        self._attributed = None  # type: ignore[assignment]
        self._losses = None
        self._stack.close()


def _no_command_line(_: int) -> str:
    return ""


def _netns_cookie() -> int:
    """Returns the cookie of the probe's namespace (SO_NETNS_COOKIE, Linux 5.14), or 0."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            return int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, 71, 8), "little")
        except OSError:
            return 0
