"""Adds to records the addresses and ports after NAT, from the host's connection tracking.

Theory of operation. A record's tuple is the one that its local socket sees. The probe looks it up
in the connection tracking of its own network namespace. If one of the two directions of a
connection has exactly this tuple, the packets come in with it. They leave with the tuple of the
other direction, reversed. That is the translation:

- ORIG is the tuple (a client's socket): packets leave as REPLY reversed;
- REPLY is the tuple (a server's socket answers): packets leave as ORIG reversed.

If the tuple is the reverse of one of them, it belongs to packets that leave, so its addresses are
those after the translation already. Such a record stays unchanged, because postNAT elements must
not name addresses before the NAT.

An entry outlives its flow for longer than records wait (TIME_WAIT 120 s, CLOSE 10 s, UDP 30 s). So
a look-up when the record is due is early enough.

The two ends of a UDP conversation are joined by their tuples, which differ if it is translated. So
``find_peers`` looks up each new end once if its own tuple finds no peer. The other side of the
entry is what the peer's socket sees. These look-ups may use half of NAT's time.

The probe does not read the connection tracking of other network namespaces (a container that
translates for itself), nor zones other than the default. A wrong match needs a second connection
with the same protocol, addresses and ports, at the same time, in a namespace whose packets do not
pass this one. That happens easily on loopback, so there only records of the probe's own namespace
are looked up.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.enrich.enrichers import Enricher
from probe.flow.columns import ROW_DTYPE
from probe.flow.rows import Rows
from probe.netlink.conntrack import TUPLE, Conntrack, Entries, Flags, Positions, Tuples

log = logging.getLogger(__name__)

_TCP, _UDP = 6, 17
_LOOPBACK = 127
_SHARE = 100  # one per cent of one core
_SAVED_NS = 50_000_000  # credit to save for ticks on which the records of many seconds are due
_FIRST_LOOK_UP_NS = 4000
#: The most that is charged for a call beside its look-ups, and the largest factor for a look-up.
_CALL_NS, _SLOWER = 5_000_000, 8
_QUIET_NS = 60_000_000_000
#: Errors that do not change while the probe runs: not permitted, or not in this kernel.
_NEVER = {
    errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP,
    errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ESOCKTNOSUPPORT,
}  # fmt: skip


@dataclass(slots=True)
class NatStatistics:
    """Counters of look-ups.

    ``skipped`` counts records that were not looked up for lack of time. ``unread`` counts answers
    that were lost or malformed.
    """

    looked_up: int = 0
    translated: int = 0
    skipped: int = 0
    unread: int = 0
    errors: int = 0
    ends_looked_up: int = 0
    ends_translated: int = 0


class Nat(Enricher):
    """Adds translations to records; the first ``apply`` that needs its socket opens it.

    ``host_netns`` is the cookie of the probe's network namespace, as in the records.
    ``monotonic_ns`` is a clock, and ``thread_ns`` returns the processor time of this thread.
    """

    def __init__(
        self,
        host_netns: int = 0,
        conntrack: Conntrack | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        thread_ns: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        self.statistics = NatStatistics()
        self._host_netns = host_netns
        self._conntrack = conntrack or Conntrack()
        self._monotonic_ns, self._thread_ns = monotonic_ns, thread_ns
        self._is_off = False
        self._credit_ns = _SAVED_NS
        self._credited_at = monotonic_ns()
        self._look_up_ns = float(_FIRST_LOOK_UP_NS)
        self._warned_at = -_QUIET_NS

    def apply(self, records: Rows) -> Rows:
        """Fills the nat columns of ``records`` that were translated. Returns all of them."""
        if self._is_off or not len(records):
            return records
        chosen = self._choose(records)
        if len(chosen):
            self._with_conntrack(lambda: self._translate(records, chosen))
        return records

    def find_peers(
        self, rows: Rows, packets: NDArray[np.int64]
    ) -> tuple[Positions, Positions, Rows]:
        """Returns what the peers of translated flow ends see: FindPeers of ``flow/cache``.

        ``rows`` are of ends without a peer. Ends with the most packets are looked up first.
        """
        chosen = np.flatnonzero(self._passes_our_namespace(rows))
        peers: Rows = np.zeros(0, ROW_DTYPE)
        found = chosen[:0]
        if self._is_off or not len(chosen):
            return np.arange(len(rows)), found, peers
        asked: list[Positions] = []

        def look_up() -> None:
            nonlocal found, peers
            asked.append(self._busiest(chosen, packets))
            found, peers = self._look_up_ends(rows, asked[0])

        self._with_conntrack(look_up)
        if not asked:  # no connection is tracked now
            return np.arange(len(rows)), found, peers
        left_out = np.ones(len(rows), bool)
        left_out[chosen] = False
        return np.concatenate([np.flatnonzero(left_out), asked[0]]), found, peers

    def _with_conntrack(self, action: Callable[[], None]) -> None:
        """Runs ``action`` if any connection is tracked, and charges its time."""
        started, asked = self._thread_ns(), self._asked()
        try:
            if self._conntrack.open() and self._conntrack.read_count():
                action()
        except OSError as error:
            self._fail(error)
        self.statistics.unread = self._conntrack.unread
        self._charge(self._thread_ns() - started, self._asked() - asked)

    def _asked(self) -> int:
        return self.statistics.looked_up + self.statistics.ends_looked_up

    def _charge(self, spent_ns: int, look_ups: int) -> None:
        """Takes the time of a call from the credit, up to a bound.

        Interrupts, and a virtual machine's loss of its core, appear as time of this thread. Without
        the bound, a single stall of 0.1 s would prevent all look-ups for ten seconds.
        """
        most = 2 * look_ups * self._look_up_ns + _CALL_NS
        self._credit_ns -= min(spent_ns, round(most))

    def close(self) -> None:
        self._conntrack.close()

    def _choose(self, records: Rows) -> Positions:
        protocol = records["protocol"]
        chosen = (records["ip_version"] == 4) & ((protocol == _TCP) | (protocol == _UDP))
        loopback = records["source_address"][:, 0] == _LOOPBACK
        loopback |= records["destination_address"][:, 0] == _LOOPBACK
        if loopback.any():
            ours = records["source_netns"] == self._host_netns
            ours |= records["destination_netns"] == self._host_netns
            chosen &= ~loopback | ours
        return np.flatnonzero(chosen)

    def _passes_our_namespace(self, rows: Rows) -> Flags:
        """Returns True for ends over IPv4 that are not on the loopback of another namespace."""
        loopback = rows["local_address"][:, 0] == _LOOPBACK
        loopback |= rows["remote_address"][:, 0] == _LOOPBACK
        passes: Flags = ~loopback | (rows["netns"] == self._host_netns)
        passes &= rows["ip_version"] == 4
        return passes

    def _busiest(self, chosen: Positions, packets: NDArray[np.int64]) -> Positions:
        """Returns the busiest ends, as many as half of the time suffices for."""
        self._earn()
        count = max(0, int(self._credit_ns / 2 / self._look_up_ns))
        if len(chosen) <= count:
            return chosen
        self._warn("NAT: %d flow ends wait to be looked up", len(chosen) - count)
        return chosen[np.argsort(-packets[chosen], kind="stable")[:count]]

    def _look_up_ends(self, rows: Rows, asked: Positions) -> tuple[Positions, Rows]:
        tuples = _tuples_of(rows, asked, ("local", "remote"))
        entries = Entries.none(len(tuples))
        self._ask(entries, tuples, np.arange(len(tuples)))
        self.statistics.looked_up -= len(tuples)
        self.statistics.ends_looked_up += len(tuples)
        theirs = _reversed(_translated(tuples, entries))
        at = np.flatnonzero(entries.found & ~_are_equal(theirs, _reversed(tuples)))
        peers: Rows = np.zeros(len(at), ROW_DTYPE)
        peers["ip_version"], peers["protocol"] = 4, tuples["protocol"][at]
        for side, name in (("source", "local"), ("destination", "remote")):
            octets = np.ascontiguousarray(theirs[side][at]).view(np.uint8).reshape(-1, 4)
            peers[f"{name}_address"][:, :4] = octets
            peers[f"{name}_port"] = theirs[f"{side}_port"][at]
        self.statistics.ends_translated += len(at)
        return asked[at], peers

    def _translate(self, records: Rows, chosen: Positions) -> None:
        chosen = self._afford(records, chosen)
        tuples = _tuples_of(records, chosen)
        entries = self._look_up(tuples, records["flow_id"][chosen])
        after = _translated(tuples, entries)
        at = np.flatnonzero(entries.found & ~_are_equal(after, tuples))
        _fill(records, chosen[at], after[at])
        self.statistics.translated += len(at)

    def _afford(self, records: Rows, chosen: Positions) -> Positions:
        """Returns the records with the most octets, as many as there is time for."""
        self._earn()
        count = max(0, int(self._credit_ns / self._look_up_ns))
        if len(chosen) <= count:
            return chosen
        self.statistics.skipped += len(chosen) - count
        self._warn("NAT: %d records are more than could be looked up", len(chosen))
        if not count:
            return chosen[:0]
        octets, rest = records["octets"][chosen], len(chosen) - count
        return chosen[np.sort(np.argpartition(octets, rest)[rest:])]

    def _earn(self) -> None:
        now = self._monotonic_ns()
        self._credit_ns += (now - self._credited_at) // _SHARE
        self._credit_ns, self._credited_at = min(self._credit_ns, _SAVED_NS), now

    def _look_up(self, tuples: Tuples, flow_ids: NDArray[np.uint64]) -> Entries:
        """Looks up tuples; usually one entry serves both directions of a flow.

        The second direction is looked up only if the entry of the first does not fit it.
        """
        entries = Entries.none(len(tuples))
        first, second = _find_directions(flow_ids)
        alone = np.ones(len(tuples), bool)
        alone[second] = False
        self._ask(entries, tuples, np.flatnonzero(alone))
        theirs = entries.take(first)
        known = theirs.found & _belongs(tuples[second], theirs)
        entries.put(second[known], theirs.take(np.flatnonzero(known)))
        self._ask(entries, tuples, second[~known])
        return entries

    def _ask(self, entries: Entries, tuples: Tuples, at: Positions) -> None:
        if not len(at):
            return
        started = self._thread_ns()
        entries.put(at, self._conntrack.look_up(tuples[at]))
        each = min((self._thread_ns() - started) / len(at), _SLOWER * self._look_up_ns)
        self._look_up_ns += (max(each, 1.0) - self._look_up_ns) * min(1.0, len(at) / 1000)
        self.statistics.looked_up += len(at)

    def _fail(self, error: OSError) -> None:
        self._conntrack.close()
        if error.errno in _NEVER:
            self._is_off = True
            log.info("connection tracking may not be read (%s): no postNAT elements", error)
            return
        self.statistics.errors += 1
        self._warn("connection tracking cannot be read: %s", error)

    def _warn(self, text: str, argument: object) -> None:
        if (now := self._monotonic_ns()) - self._warned_at >= _QUIET_NS:
            self._warned_at = now
            log.warning(text, argument)


def no_peers() -> tuple[Positions, Positions, Rows]:
    """Returns the result of a ``find_peers`` that found no peer."""
    none = np.zeros(0, np.intp)
    return none, none, np.zeros(0, ROW_DTYPE)


def _tuples_of(
    rows: Rows, chosen: Positions, sides: tuple[str, str] = ("source", "destination")
) -> Tuples:
    tuples = np.zeros(len(chosen), TUPLE)
    for side, name in zip(("source", "destination"), sides, strict=True):
        octets = np.ascontiguousarray(rows[f"{name}_address"][chosen, :4])
        tuples[side] = octets.view(np.uint32)[:, 0]
        tuples[f"{side}_port"] = rows[f"{name}_port"][chosen]
    tuples["protocol"] = rows["protocol"][chosen]
    return tuples


def _fill(records: Rows, at: Positions, after: Tuples) -> None:
    for side in ("source", "destination"):
        octets = np.ascontiguousarray(after[side]).view(np.uint8).reshape(-1, 4)
        records[f"nat_{side}_address"][at] = octets
        records[f"nat_{side}_port"][at] = after[f"{side}_port"]
    records["translated"][at] = 1


def _find_directions(flow_ids: NDArray[np.uint64]) -> tuple[Positions, Positions]:
    """Returns pairs of positions of records with the same flow id."""
    order = np.argsort(flow_ids, kind="stable")
    again = np.flatnonzero(flow_ids[order][1:] == flow_ids[order][:-1])
    return order[again], order[again + 1]


def _translated(tuples: Tuples, entries: Entries) -> Tuples:
    """Returns the tuples with which packets leave, unchanged if the entry does not fit."""
    after = tuples.copy()
    for side, other in ((entries.original, entries.reply), (entries.reply, entries.original)):
        same = np.flatnonzero(entries.found & _are_equal(tuples, side))
        after[same] = _reversed(other[same])
    return after


def _belongs(tuples: Tuples, entries: Entries) -> Flags:
    """Returns True if the entry is about these packets, before or after the translation."""
    back = _reversed(tuples)
    one = _are_equal(tuples, entries.original) | _are_equal(tuples, entries.reply)
    return one | _are_equal(back, entries.original) | _are_equal(back, entries.reply)


def _reversed(tuples: Tuples) -> Tuples:
    back = tuples.copy()
    for side, other in (("source", "destination"), ("destination", "source")):
        back[side], back[f"{side}_port"] = tuples[other], tuples[f"{other}_port"]
    return back


def _are_equal(a: Tuples, b: Tuples) -> Flags:
    words_a, words_b = (np.ascontiguousarray(c).view(np.uint64).reshape(-1, 2) for c in (a, b))
    equal: Flags = (words_a == words_b).all(axis=1)
    return equal
