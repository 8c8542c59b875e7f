"""Keeps the probe's own sockets, and the other local end of its export sessions, out of the flows.

Otherwise every exported message would cause a flow to export. Their traffic is counted instead.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.flow.batch import FlowBatch
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows, take_rows

Endpoint = tuple[str, int]
#: Address, port and protocol: the same port of another protocol may be of another process.
OwnSocket = tuple[str, int, int]

#: Inode of the first pid namespace (include/linux/proc_ns.h), whose pids the kernel half reports.
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
#: How long an address that is not used any more still counts: the other end may report late.
_REMEMBERED_S = 10.0


@dataclass(slots=True)
class OwnStatistics:
    """The octets and packets of the probe's own sockets, at the IP layer."""

    octets: int = 0
    packets: int = 0


class OwnTraffic:
    """The filter that removes own traffic from rows and events.

    The owner column of the rows is an index of ``owners``. ``netns`` is the cookie of our network
    namespace. With ``is_guest`` the process belongs to another program, so only export sockets are
    own traffic, and its other sockets are metered.
    """

    def __init__(self, owners: OwnerTable, netns: int = 0, is_guest: bool = False) -> None:
        self.statistics = OwnStatistics()
        self._owners = owners
        self._netns = netns
        self._pid = os.getpid() if _pid_is_kernels() and not is_guest else None
        self._addresses: dict[OwnSocket, float] = {}
        self._now_s = 0.0

    def remember(self, addresses: list[OwnSocket], now_s: float) -> None:
        """Notes the ``addresses`` of export sockets at ``now_s`` (monotonic seconds)."""
        self._now_s = now_s
        self._addresses.update(dict.fromkeys(addresses, now_s))
        for address in [a for a, t in self._addresses.items() if now_s - t > _REMEMBERED_S]:
            del self._addresses[address]

    def take_out(self, batch: FlowBatch) -> FlowBatch:
        """Returns ``batch`` without own traffic, and counts that."""
        ours, theirs = self._find(batch.rows)
        out = ours | theirs
        if not out.any():
            return batch
        self._count(take_rows(batch.rows, np.flatnonzero(ours)))
        return FlowBatch(take_rows(batch.rows, np.flatnonzero(~out)))

    def take_out_events(self, events: Rows) -> Rows:
        """Returns ``events`` (EVENT_DTYPE) without those of own traffic."""
        ours, theirs = self._find(events)
        out = ours | theirs
        return take_rows(events, np.flatnonzero(~out)) if out.any() else events

    def _find(self, rows: Rows) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Returns which rows are our own ends, and which are the other ends of our sessions."""
        ours = self._has_our_pid(rows)
        theirs = np.zeros(len(rows), bool)
        for address, last_s in self._addresses.items():
            for side, found in (("local", ours), ("remote", theirs)):
                matches = self._matches(rows, side, address)
                if last_s < self._now_s and matches.any():
                    matches &= _began_before(rows, last_s)
                found |= matches
        return ours, theirs

    def _count(self, own: Rows) -> None:
        for side in ("tx", "rx"):
            self.statistics.octets += int(own[f"{side}_octets"].sum())
            self.statistics.packets += int(own[f"{side}_packets"].sum())

    def _has_our_pid(self, rows: Rows) -> NDArray[np.bool_]:
        if self._pid is None or not len(rows):
            return np.zeros(len(rows), bool)
        indices = rows["owner"].astype(np.intp)
        present = np.flatnonzero(np.bincount(indices)).tolist()
        own = [index for index in present if self._owners[index].process.pid == self._pid]
        matches: NDArray[np.bool_] = np.isin(indices, own)
        return matches

    def _matches(self, rows: Rows, side: str, address: OwnSocket) -> NDArray[np.bool_]:
        packed, port = _packed(address[0]), address[1]
        found: NDArray[np.bool_] = rows[f"{side}_port"] == port
        if found.any():
            found &= rows["protocol"] == address[2]
            found &= (rows[f"{side}_address"] == packed).all(axis=1)
            if _is_loopback(packed) and self._netns:  # each namespace has its own loopback
                found &= rows["netns"] == self._netns
        return found


def _began_before(rows: Rows, last_s: float) -> NDArray[np.bool_]:
    """Returns which rows began before ``last_s``, when we last used an address.

    A later flow belongs to a process that got the same port. Events have no start: all count.
    """
    if "start_ns" not in (rows.dtype.names or ()):
        return np.ones(len(rows), bool)
    began: NDArray[np.bool_] = rows["start_ns"] <= np.uint64(last_s * 1e9)
    return began


def _pid_is_kernels() -> bool:
    try:
        return os.stat("/proc/self/ns/pid").st_ino == _INITIAL_PID_NAMESPACE
    except OSError:
        return False


def _packed(address: str) -> NDArray[np.uint8]:
    """Returns ``address`` in sixteen octets, as struct flow_row has it."""
    host = address.partition("%")[0]
    octets = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    return np.frombuffer(octets.ljust(16, b"\0"), np.uint8)


def _is_loopback(packed: NDArray[np.uint8]) -> bool:
    return bool(packed[0] == 127 and not packed[4:].any()) or bool(
        packed[15] == 1 and not packed[:15].any()
    )
