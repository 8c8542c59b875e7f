"""Tests FlowCache against a naive model that handles one row, end and direction at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from probe.flow.batch import FlowBatch
from probe.flow.cache import FlowCache
from probe.flow.codes import Mark
from probe.flow.columns import ROW_DTYPE
from probe.flow.rows import Rows

S = 1_000_000_000
ACTIVE, IDLE, WAIT, LINGER = 7 * S, 5 * S, 1 * S, 3 * S
Record = tuple[int, ...]


@dataclass(eq=False)
class End:
    row: dict[str, int]
    since: int
    armed: int
    last: int
    tx: list[int] = field(default_factory=lambda: [0, 0])  # packets, octets
    rx: list[int] = field(default_factory=lambda: [0, 0])
    tx_out: list[int] = field(default_factory=lambda: [0, 0])
    rx_out: list[int] = field(default_factory=lambda: [0, 0])
    closed: int = 0
    ended: int = 0
    peer: End | None = None


class Model:
    """A naive flow cache for TCP whose sequence numbers are known from the first row."""

    def __init__(self) -> None:
        self.ends: dict[int, End] = {}
        self.previous = 0
        self.late = 0

    def observe(self, rows: list[dict[str, int]], now: int) -> None:
        lasts = [(row["id"], row["last_ns"]) for row in rows]
        for row in rows:
            self._add(row, max(last for key, last in lasts if key == row["id"]), now)
        for end in list(self.ends.values()):
            self._join(end, now)
        self.previous = now

    def _add(self, row: dict[str, int], last: int, now: int) -> None:
        end = self.ends.get(row["id"])
        if end is None:
            since = row["start_ns"]
            if self.previous and last - since > IDLE:
                since = min(max(since, self.previous), last)
            end = self.ends[row["id"]] = End(row, since, since, last)
        elif end.ended:
            self.late += row["tx_packets"] + row["rx_packets"]
            end.ended = now
        end.last = max(end.last, last)
        for lane, name in ((end.tx, "tx"), (end.rx, "rx")):
            lane[0] += row[f"{name}_packets"]
            lane[1] += row[f"{name}_octets"]
        if row["mark"] & Mark.CLOSED and not end.closed:
            end.closed = now

    def _join(self, end: End, now: int) -> None:
        for other in self.ends.values():
            mirrored = (other.row["isn_remote"], other.row["isn_local"])
            if end.peer or other.peer or mirrored != (end.row["isn_local"], end.row["isn_remote"]):
                continue
            end.peer, other.peer = other, end
            exported = [e for e in (end, other) if e.tx_out[0] + e.rx_out[0]]
            chosen = exported or [end, other]
            pick = max if len(exported) == 2 else min
            end.since = other.since = pick(e.since for e in chosen)
            end.armed = other.armed = max(end.armed, other.armed)
            self._bury(end, other, now)

    def _bury(self, end: End, other: End, now: int) -> None:
        if bool(end.ended) == bool(other.ended):
            return
        late = other if end.ended else end
        self.late += late.tx[0] + late.rx[0]
        end.ended = other.ended = now

    def expire(self, now: int, forced: bool = False) -> list[Record]:
        for end in [e for e in self.ends.values() if e.ended and not forced]:
            ends = [e for e in (end, end.peer) if e]
            if now - end.ended >= LINGER and all(e.closed for e in ends):
                for each in ends:
                    self.ends.pop(each.row["id"], None)
        records: list[Record] = []
        done: set[int] = set()
        for end in list(self.ends.values()):
            if not end.ended and id(end) not in done:
                done |= {id(end), id(end.peer)}
                records += self._expire_entry(end, now, forced)
        return sorted(records)

    def _expire_entry(self, end: End, now: int, forced: bool) -> list[Record]:
        reason = 4 if forced else self._reason(end, now)
        if not reason:
            return []
        ends = [e for e in (end, end.peer) if e]
        last = max(e.last for e in ends)
        records = [r for e in ends for r in self._directions(e, reason, last)]
        for each in ends:
            each.since, each.armed = (last if records else each.since), now
            if reason == 3 and not (len(ends) == 2 and all(e.closed for e in ends)):
                each.ended = now
            elif reason != 2:
                del self.ends[each.row["id"]]
        return records

    def _reason(self, end: End, now: int) -> int:
        ends = [e for e in (end, end.peer) if e]
        closed = [e.closed for e in ends if e.closed]
        if closed:
            return 3 if len(closed) == 2 or now - min(closed) >= WAIT else 0
        if now - max(e.last for e in ends) >= IDLE:
            return 1
        return 2 if now - end.armed >= ACTIVE else 0

    def _directions(self, end: End, reason: int, last: int) -> list[Record]:
        """Returns what this end sent, and what it received unless its sender is local."""
        row, first = end.row, min(end.since, last)
        other_out = end.peer.rx_out if end.peer else [0, 0]
        delta = [max(0, end.tx[i] - end.tx_out[i] - other_out[i]) for i in (0, 1)]
        owner = end.peer.row["owner"] if end.peer else 0
        records: list[Record] = []
        if delta[0]:
            end.tx_out = [end.tx_out[i] + delta[i] for i in (0, 1)]
            ports = (row["local_port"], row["remote_port"])
            records.append((*ports, *delta, reason, first, last, row["owner"], owner, 1))
        if not end.peer:
            delta = [end.rx[i] - end.rx_out[i] for i in (0, 1)]
            if delta[0]:
                end.rx_out = list(end.rx)
                ports = (row["remote_port"], row["local_port"])
                records.append((*ports, *delta, reason, first, last, 0, row["owner"], 0))
        return records


COLUMNS = ("source_port", "destination_port", "packets", "octets", "end_reason", "first_ns",
           "last_ns", "source_owner", "destination_owner", "flow_direction")  # fmt: skip


def as_tuples(records: Rows) -> list[Record]:
    return sorted(tuple(int(record[name]) for name in COLUMNS) for record in records)


class Traffic:
    """Connections that open, talk, fall silent and close.

    Some ends are seen late, twice or never.
    """

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.live: list[dict[str, Any]] = []
        self.serial = 0

    def tick(self, now: int) -> list[dict[str, int]]:
        for _ in range(int(self.random.integers(0, 12))):
            self._connect(now)
        rows = [row for end in self.live for row in self._rows(end, now)]
        self.live = [end for end in self.live if not end["gone"]]
        self.random.shuffle(rows)
        return sorted(rows, key=lambda row: row["last_ns"])

    def _connect(self, now: int) -> None:
        self.serial += 1
        n, pick = self.serial, self.random.integers
        isns = int(pick(1, 2**32)), int(pick(1, 2**32))
        start, owners = now - int(pick(1, S)), pick(0, 9, 2)
        for side in range(2 if pick(0, 3) else 1):
            ports = (n, 60000 - n) if side == 0 else (60000 - n, n)
            row = {"id": 2 * n + side, "owner": int(owners[side]), "start_ns": start,
                   "local_port": ports[0], "remote_port": ports[1], "isn_local": isns[side],
                   "isn_remote": isns[1 - side], "protocol": 6, "ip_version": 4}  # fmt: skip
            delay = int(pick(0, 4)) * S if pick(0, 4) == 0 else 0
            self.live.append({"row": row, "from": now + delay, "gone": False})

    def _rows(self, end: dict[str, Any], now: int) -> list[dict[str, int]]:
        if now < end["from"] or self.random.random() < 0.4:
            return []
        rows = []
        for _ in range(1 + int(self.random.random() < 0.2)):
            tx, rx = (int(v) for v in self.random.integers(0, 5, 2))
            last = max(end["row"]["start_ns"], now - int(self.random.integers(0, S)))
            rows.append(end["row"] | {"tx_packets": tx, "tx_octets": 100 * tx, "rx_packets": rx,
                                      "rx_octets": 9 * rx, "last_ns": last, "mark": 0})  # fmt: skip
        if self.random.random() < 0.15:
            max(rows, key=lambda row: row["last_ns"])["mark"] = Mark.CLOSED
            end["gone"] = True
        elif self.random.random() < 0.1:
            end["from"] = now + int(self.random.integers(3, 9)) * S
        return rows


def as_batch(rows: list[dict[str, int]]) -> FlowBatch:
    array: Rows = np.zeros(len(rows), ROW_DTYPE)
    for target, row in zip(array, rows, strict=True):
        for name, value in row.items():
            target[name] = value
    return FlowBatch(array)


@pytest.mark.parametrize("seed", range(8))
def test_random_traffic_yields_the_records_of_the_model(seed: int) -> None:
    cache = FlowCache(active_timeout_ns=ACTIVE, idle_timeout_ns=IDLE, linger_ns=LINGER)
    model, traffic = Model(), Traffic(seed)
    for now in range(100 * S, 160 * S, S):
        rows = traffic.tick(now)
        cache.observe(as_batch(rows), now)
        if rows:
            model.observe(rows, now)
        assert as_tuples(cache.expire(now, 0)) == model.expire(now), f"second {now // S}"
        assert cache.late_packets == model.late
    assert as_tuples(cache.flush(161 * S, 0)) == model.expire(161 * S, forced=True)
