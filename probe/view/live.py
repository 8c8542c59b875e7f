"""Sums Flow Records up to flows in columns, which ``sockflow flows`` shows.

A flow has a client and a server; the counters of an end count what it sent. Thousands of records a
second cost a few calls of numpy, and only what fits on the screen becomes text.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from probe.flow.codes import EndReason, Role
from probe.flow.key_index import distinct
from probe.flow.rows import Rows

_END = (
    ("octets", "u8"), ("packets", "u8"), ("address", "u1", 16), ("port", "u2"), ("owner", "u4"),
    ("rtt_us", "u4"), ("rtt_var_us", "u4"), ("is_here", "?"),
)  # fmt: skip
#: Times are Unix nanoseconds, and ``seen_ns`` is the arrival of the latest record. The socket of an
#: end measured its RTT, which is 0 if it did not. ``is_here``: the end has a socket on this host.
LIVE_DTYPE = np.dtype(
    [
        ("flow_id", "u8"), ("first_ns", "i8"), ("last_ns", "i8"), ("seen_ns", "i8"),
        ("retransmitted", "u8"),
        *((f"{end}_{name}", *kind) for end in ("client", "server") for name, *kind in _END),
        ("protocol", "u1"), ("ip_version", "u1"), ("tcp_state", "u1"), ("end_reason", "u1"),
        ("has_ended", "?"), ("has_news", "?"),
    ]
)  # fmt: skip
_LIVES_ON = (0, EndReason.ACTIVE_TIMEOUT)
_WHOLE = ("protocol", "ip_version", "tcp_state", "end_reason")

Slots = NDArray[np.intp]


class LiveFlows:
    """The latest flows, at most ``limit``. Beyond, those without packets for longest leave.

    ``rows`` (LIVE_DTYPE) are ordered by flow_id. ``on_leave`` gets the rows that leave.
    """

    def __init__(
        self, limit: int = 65536, on_leave: Callable[[Rows], None] = lambda rows: None
    ) -> None:
        self.rows: Rows = np.zeros(0, LIVE_DTYPE)
        #: The number of all flows so far.
        self.flows = 0
        self._limit = limit
        self._on_leave = on_leave

    def __len__(self) -> int:
        return len(self.rows)

    def observe(self, records: Rows, now_ns: int) -> None:
        """Adds records (RECORD_DTYPE) that came at ``now_ns`` (Unix time)."""
        if not len(records):
            return
        self._insert(records)
        slots = np.searchsorted(self.rows["flow_id"], records["flow_id"])
        from_client = self._come_from_client(records, slots)
        _update_flows(self.rows, slots, records, now_ns)
        for some, near, far in (
            (np.flatnonzero(from_client), "client", "server"),
            (np.flatnonzero(~from_client), "server", "client"),
        ):
            _update_ends(self.rows, slots[some], records[some], near, far)
        if len(self.rows) > self._limit:
            latest = np.argsort(self.rows["last_ns"], kind="stable")[-self._limit :]
            self._keep(np.isin(np.arange(len(self.rows)), latest))

    def forget_ended(self, before_ns: int) -> None:
        """Drops the flows whose last record came before ``before_ns`` and reported the end."""
        kept = ~(self.rows["has_ended"] & (self.rows["seen_ns"] < before_ns))
        if not kept.all():
            self._keep(kept)

    def take_news(self) -> Rows:
        """Returns the flows with news since the last call."""
        found: Rows = self.rows[self.rows["has_news"]]
        self.rows["has_news"] = False
        return found

    def owners_in_use(self) -> set[int]:
        both = [self.rows[f"{end}_owner"] for end in ("client", "server")]
        return set(distinct(np.concatenate(both)).tolist())

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        self._on_leave(self.rows[~kept])
        self.rows = self.rows[kept]

    def _insert(self, records: Rows) -> None:
        """Inserts a row for each new flow, with the addresses and ports of its ends."""
        known = np.isin(records["flow_id"], self.rows["flow_id"])
        candidates = records[~known]
        order = np.argsort(candidates["flow_id"], kind="stable")
        ids = candidates["flow_id"][order]
        is_first = np.ones(len(ids), bool)
        is_first[1:] = ids[1:] != ids[:-1]
        fresh = candidates[order[is_first]]
        self.flows += len(fresh)
        rows: Rows = np.zeros(len(fresh), LIVE_DTYPE)
        rows["flow_id"], rows["first_ns"] = fresh["flow_id"], fresh["first_ns"]
        is_client = _source_is_client(fresh)
        for name in ("address", "port"):
            ends = fresh[f"source_{name}"], fresh[f"destination_{name}"]
            where = is_client[:, None] if name == "address" else is_client
            rows[f"client_{name}"] = np.where(where, *ends)
            rows[f"server_{name}"] = np.where(where, *ends[::-1])
        both = np.concatenate([self.rows, rows])
        self.rows = both[np.argsort(both["flow_id"], kind="stable")]

    def _come_from_client(self, records: Rows, slots: Slots) -> NDArray[np.bool_]:
        same = self.rows["client_address"][slots] == records["source_address"]
        port = self.rows["client_port"][slots] == records["source_port"]
        found: NDArray[np.bool_] = port & same.all(axis=1)
        return found


def _source_is_client(records: Rows) -> NDArray[np.bool_]:
    """Returns what the records say; else takes the end with the lower port for the server."""
    role = records["biflow_direction"]
    ports = records["source_port"].astype(int) - records["destination_port"]
    source, destination = (
        np.ascontiguousarray(records[f"{end}_address"]).view("S16")[:, 0]
        for end in ("source", "destination")
    )
    guessed = (ports > 0) | ((ports == 0) & (source >= destination))
    known: NDArray[np.bool_] = role == Role.INITIATOR
    found: NDArray[np.bool_] = np.where(role == Role.UNKNOWN, guessed, known)
    return found


def _update_flows(rows: Rows, slots: Slots, records: Rows, now_ns: int) -> None:
    np.minimum.at(rows["first_ns"], slots, records["first_ns"])
    np.maximum.at(rows["last_ns"], slots, records["last_ns"])
    np.add.at(rows["retransmitted"], slots, records["retransmitted"])
    for name in _WHOLE:  # the last record of a flow wins
        rows[name][slots] = records[name]
    rows["seen_ns"][slots], rows["has_news"][slots] = now_ns, True
    rows["has_ended"][slots] = ~np.isin(records["end_reason"], _LIVES_ON)


def _update_ends(rows: Rows, slots: Slots, records: Rows, near: str, far: str) -> None:
    """Updates both ends of flows; ``near`` is the end that sent these records' packets."""
    for name in ("octets", "packets"):
        np.add.at(rows[f"{near}_{name}"], slots, records[name])
    is_here = records["source_netns"] != 0
    # If the sender's socket is on this host, it measured the RTT; else the receiver's did.
    for end, side, measured in (
        (near, "source", is_here),
        (far, "destination", ~is_here),
    ):
        known = np.flatnonzero(records[f"{side}_owner"])
        rows[f"{end}_owner"][slots[known]] = records[f"{side}_owner"][known]
        np.logical_or.at(rows[f"{end}_is_here"], slots, records[f"{side}_netns"] != 0)
        has_rtt = np.flatnonzero(measured & (records["rtt_us"] > 0))
        for name in ("rtt_us", "rtt_var_us"):
            rows[f"{end}_{name}"][slots[has_rtt]] = records[name][has_rtt]
