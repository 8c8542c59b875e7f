"""Runs eBPF and Netlink at once: Netlink meters the sockets that eBPF cannot.

Theory of operation. eBPF meters a TCP socket from its first row on, with exact counters, owners and
sequence numbers. Netlink shows all TCP sockets, and keeps those whose cookie never came from eBPF.
These are sockets for which the kernel half got no storage, and older ones that no descriptor table
shows.

Each ``read`` reads Netlink first and eBPF second. A socket that eBPF meters is then in eBPF's rows
before the decision is made. Once a socket is Netlink's, it stays so until it closes.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Collection

import numpy as np

from probe.flow.batch import FlowBatch
from probe.flow.codes import TCP, Mark
from probe.flow.key_index import U64, distinct
from probe.flow.keys import is_inside
from probe.flow.rows import Rows, concatenate_rows, convert_rows, take_rows
from probe.sources.ebpf import EbpfSource
from probe.sources.netlink import NetlinkSource
from probe.sources.netlink.counters import Flags

_LINGER = 3  # reads for which a closed socket is remembered, as the other source may be late


class Claims:
    """Decides by cookie which source meters a socket. Does no I/O.

    A cookie belongs to eBPF from its first row on. Netlink's rows are older than eBPF's, so a
    socket that is not in eBPF's rows by then is one that eBPF will never meter.
    """

    def __init__(self) -> None:
        self.taken_over = 0  # sockets younger than the probe that are Netlink's
        self._known: U64 = np.zeros(0, np.uint64)  # ascending
        self._ours: dict[int, tuple[int, int]] = {}  # Netlink's: cookie -> sequence numbers
        self._closing: list[U64] = [np.zeros(0, np.uint64)] * _LINGER
        self._before: Rows | None = None  # eBPF's latest rows, to find peers in

    def are_known(self, cookies: U64) -> Flags:
        """Returns True for the cookies that eBPF meters."""
        if not len(self._known):
            return np.zeros(len(cookies), bool)
        at = np.minimum(np.searchsorted(self._known, cookies), len(self._known) - 1)
        known: Flags = self._known[at] == cookies
        return known

    def merge(self, first: Rows, second: Rows, is_read: bool) -> Rows:
        """Returns the rows of both sources, each socket from one of them.

        ``first`` are Netlink's rows. ``second`` are eBPF's, read after them; the result has their
        columns. With ``is_read``, sockets that closed some reads ago are forgotten.
        """
        tcp = second["protocol"] == TCP
        if self._ours:
            taken = np.isin(second["cookie"], np.fromiter(self._ours, np.uint64)) & tcp
            second, tcp = second[~taken], tcp[~taken]
        self._learn(second["cookie"][tcp])
        mine = first[~self.are_known(first["cookie"])]
        fresh = mine["tx_packets"] + mine["rx_packets"] > 0
        fresh |= np.isin(mine["cookie"], np.fromiter(self._ours, np.uint64))
        mine = convert_rows(mine[fresh], second.dtype)
        self._find_sequence_numbers(mine, second[tcp])
        if is_read:
            self._before = take_rows(second, np.flatnonzero(tcp))
            self._forget()
        self._close(second[tcp], mine)
        return concatenate_rows([second, mine]) if len(mine) else second

    def _learn(self, cookies: U64) -> None:
        new = cookies[~self.are_known(cookies)]
        if len(new):
            self._known = distinct(np.concatenate([self._known, new]))

    def _find_sequence_numbers(self, mine: Rows, theirs: Rows) -> None:
        """Copies sequence numbers from peers, so that both ends of a connection can be joined.

        tcp_info has none, but eBPF knows those of a peer on this host.
        """
        for row in mine:
            cookie = int(row["cookie"])
            if cookie not in self._ours:
                self._ours[cookie] = self._ask_peer(row, theirs)
                self.taken_over += not row["mark"] & Mark.PREEXISTING
            numbers = self._ours[cookie]
            if any(numbers):
                row["isn_local"], row["isn_remote"] = numbers
                row["mark"] &= ~np.uint8(Mark.BY_TUPLE)

    def _ask_peer(self, row: np.void, theirs: Rows) -> tuple[int, int]:
        for rows in (theirs, self._before):
            if rows is None:
                continue
            fits = (rows["local_port"] == row["remote_port"]) & (
                rows["remote_port"] == row["local_port"]
            )
            some = rows[fits]
            fits = (some["local_address"] == row["remote_address"]).all(axis=1)
            fits &= (some["remote_address"] == row["local_address"]).all(axis=1)
            if is_inside(row):
                fits &= some["netns"] == row["netns"]
            peers = some[fits]
            if len(set(peers["cookie"].tolist())) == 1:
                return int(peers["isn_remote"][-1]), int(peers["isn_local"][-1])
        return 0, 0

    def _close(self, second: Rows, mine: Rows) -> None:
        for rows in (second, mine):
            closed = (rows["mark"] & np.uint8(Mark.CLOSED)) != 0
            self._closing[-1] = np.concatenate([self._closing[-1], rows["cookie"][closed]])

    def _forget(self) -> None:
        gone = self._closing.pop(0)
        self._closing.append(np.zeros(0, np.uint64))
        if not len(gone):
            return
        self._known = self._known[~np.isin(self._known, gone)]
        for cookie in self._ours.keys() & set(gone.tolist()):
            del self._ours[cookie]


class MergedSource:
    """Meters with both sources from ``open`` to ``close``; they share the table of owners."""

    def __init__(self, ebpf: EbpfSource, netlink: NetlinkSource, claims: Claims) -> None:
        self.owners = ebpf.owners
        self.hooks: list[str] = []
        self.snapshot_ns = self.snapshot_cpu_ns = 0
        self.host_netns = 0
        self.tells_events = ebpf.tells_events
        self._ebpf, self._netlink, self._claims = ebpf, netlink, claims
        self._stack = contextlib.ExitStack()

    def open(self) -> None:
        """Opens both sources. Raises KernelError if one of them cannot run."""
        with contextlib.ExitStack() as stack:
            for source in (self._ebpf, self._netlink):
                source.open()
                stack.callback(source.close)
                self.hooks += source.hooks
            self._epoll = stack.enter_context(select.epoll())
            for source in (self._ebpf, self._netlink):
                self._epoll.register(source.fileno(), select.EPOLLIN)
            self._stack = stack.pop_all()
        self.host_netns = self._ebpf.host_netns or self._netlink.host_netns

    def fileno(self) -> int:
        """Returns a descriptor that is readable when that of either source is."""
        return self._epoll.fileno()

    def read(self, is_last: bool = False) -> FlowBatch:
        """Returns all flow ends with traffic since the last read, each from one source."""
        first, second = self._netlink.read(is_last).rows, self._ebpf.read(is_last).rows
        self.snapshot_ns = self._netlink.snapshot_ns + self._ebpf.snapshot_ns
        self.snapshot_cpu_ns = self._netlink.snapshot_cpu_ns + self._ebpf.snapshot_cpu_ns
        return FlowBatch(self._claims.merge(first, second, is_read=True))

    def drain(self) -> FlowBatch:
        """Returns the flow ends that ended since the last read."""
        first, second = self._netlink.drain().rows, self._ebpf.drain().rows
        return FlowBatch(self._claims.merge(first, second, is_read=False))

    def read_events(self) -> Rows:
        """Returns the events of eBPF (EVENT_DTYPE)."""
        return self._ebpf.read_events()

    def losses(self) -> dict[str, int]:
        """Returns what both sources lost, by cause.

        Sockets without eBPF storage do not count if Netlink meters them.
        """
        found = {**self._netlink.losses(), **self._ebpf.losses()}
        found["storage_failed"] = max(0, found["storage_failed"] - self._claims.taken_over)
        return found

    def wants_sweep(self) -> bool:
        return self._ebpf.wants_sweep()

    def sweep_owners(self, in_use: Collection[int]) -> list[int]:
        """Forgets owners that have ended and that nothing names, and returns their indices."""
        return self._ebpf.sweep_owners(in_use) + self._netlink.sweep_owners(in_use)

    def close(self) -> None:
        """Detaches everything."""
        self._stack.close()
