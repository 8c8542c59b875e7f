"""Decides which flow ends are metered, by the rules of ``flow.rules`` before and after the cache.

Rules see one flow end at a time. ``process=nginx`` keeps or drops nginx's end of a connection, in
both directions. The owner of the other end decides about that end.

Before the cache, the filter drops a row only if the decision is certain. A rule may ask for an
owner that is not known yet, or for a name that may still come. Such an end passes the cache, and
its records are decided on when they leave, after they have waited for the name. An end that is in
the cache stays there, so that one decision covers all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.flow.batch import FlowBatch
from probe.flow.codes import EndReason, Mark
from probe.flow.owner import OwnerTable
from probe.flow.recently_seen import RecentlySeen
from probe.flow.rows import Flags, Rows, take_rows
from probe.flow.rules import (
    KEYS,
    Choice,
    Rule,
    combine,
    parse_rule,
    record_ends,
)

__all__ = ["KEYS", "Choice", "FlowFilter", "LateNames", "Rule", "combine", "parse_rule"]

_SIDES = ("source", "destination")
#: Columns of a record that describe the end itself.
_OF_AN_END = ("owner", "owner_source", "netns", "netns_inode", "ifindex")
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class LateNames:
    """Names that may come late.

    ``nameless`` has the owners that may still get a name. ``are_metered`` tells which rows are of
    ends in the cache.
    """

    nameless: NDArray[np.int64]
    are_metered: Callable[[Rows], Flags]


class FlowFilter:
    """Keeps what the ``Choice`` of its rules keeps.

    ``excluded_*`` count what was dropped; packets and octets are those sent and received.
    ``excluded_rows`` counts rows and records. ``excluded_flows`` counts flow ends, each once while
    it is remembered.
    """

    def __init__(self, include: Sequence[Rule] = (), exclude: Sequence[Rule] = ()) -> None:
        self._choice = Choice(include, exclude)
        self._seen = RecentlySeen()
        self.excluded_rows = 0
        self.excluded_flows = 0
        self.excluded_packets = 0
        self.excluded_octets = 0

    @property
    def asks_for_owners(self) -> bool:
        """Returns True if names that come late can change a decision."""
        return self._choice.asks_for_owners

    @property
    def forgotten_flows(self) -> int:
        """Returns how many excluded flow ends were forgotten for lack of room.

        Such an end is counted once more if it goes on.
        """
        return self._seen.forgotten

    def select(
        self, batch: FlowBatch, owners: OwnerTable, late: LateNames | None = None
    ) -> FlowBatch:
        """Returns the rows to meter; the batch itself if there is nothing to drop.

        Without ``late``, all owners and names count as final.
        """
        if not len(batch) or not self._choice:
            return batch
        kept = self._choice.matches(batch.rows, owners)
        if kept.all():
            return batch
        if late and self.asks_for_owners:
            kept |= self._are_open(batch.rows, np.flatnonzero(~kept), late)
        rows = np.ascontiguousarray(batch.rows)
        self._count_rows(take_rows(rows, np.flatnonzero(~kept)))
        return FlowBatch(take_rows(rows, np.flatnonzero(kept)))

    def select_records(self, records: Rows, owners: OwnerTable) -> Rows:
        """Returns the records to export.

        If the rules drop a local end and keep its peer, the records of the peer do not name it.
        """
        if not len(records) or not self.asks_for_owners:
            return records
        ends = record_ends(records)
        here = [(records[f"{s}_netns"] | records[f"{s}_netns_inode"]) != 0 for s in _SIDES]
        chosen = [self._choice.matches(ends, owners, (f"{side}_owner",)) for side in _SIDES]
        dropped = [at & ~match for at, match in zip(here, chosen, strict=True)]
        if not (dropped[0] | dropped[1]).any():
            return records
        self._count_records(records, dropped)
        kept = ~(dropped[0] | dropped[1])
        for at, match in zip(here, chosen, strict=True):
            kept |= at & match
        told = take_rows(records, np.flatnonzero(kept))
        for side, flags in zip(_SIDES, dropped, strict=True):
            for name in _OF_AN_END:
                told[f"{side}_{name}"][flags[kept]] = 0
        return told

    def select_events(self, events: Rows, owners: OwnerTable) -> Rows:
        """Returns the events (EVENT_DTYPE) that the same rules keep.

        Events of containers have neither address nor port.
        """
        if not len(events) or not self._choice:
            return events
        return _take(events, self._choice.matches(events, owners))

    def select_sockets(self, sockets: Rows, owners: OwnerTable) -> Rows:
        """Returns the sockets (SOCKET_DTYPE) that ``Choice.matches_sockets`` keeps."""
        if not len(sockets) or not self._choice:
            return sockets
        return _take(sockets, self._choice.matches_sockets(sockets, owners))

    def _are_open(self, rows: Rows, at: NDArray[np.intp], late: LateNames) -> Flags:
        """Returns which of the rows ``at`` a later name may choose."""
        doubtful = take_rows(np.ascontiguousarray(rows), at)
        may = (doubtful["owner"] == 0) | np.isin(doubtful["owner"], late.nameless)
        may = (may | late.are_metered(doubtful)) & self._choice.may_match(doubtful)
        found = np.zeros(len(rows), bool)
        found[at[may]] = True
        return found

    def _count_rows(self, rows: Rows) -> None:
        self.excluded_rows += len(rows)
        self.excluded_packets += int(rows["tx_packets"].sum() + rows["rx_packets"].sum())
        self.excluded_octets += int(rows["tx_octets"].sum() + rows["rx_octets"].sum())
        self.excluded_flows += self._seen.note(rows["id"])
        self._seen.forget(rows["id"][(rows["mark"] & np.uint8(Mark.CLOSED)) != 0])

    def _count_records(self, records: Rows, dropped: list[Flags]) -> None:
        for side, flags in zip(_SIDES, dropped, strict=True):
            theirs = take_rows(records, np.flatnonzero(flags))
            self.excluded_rows += len(theirs)
            self.excluded_packets += int(theirs["packets"].sum())
            self.excluded_octets += int(theirs["octets"].sum())
            # equal for both directions of an end, different for the other end
            keys = theirs["flow_id"] * _SPREAD + theirs[f"{side}_port"]
            self.excluded_flows += self._seen.note(keys)
            # the record of the other direction comes in the same call
        for side, flags in zip(_SIDES, dropped, strict=True):
            ended = flags & (records["end_reason"] != EndReason.ACTIVE_TIMEOUT)
            keys = records["flow_id"][ended] * _SPREAD + records[f"{side}_port"][ended]
            self._seen.forget(keys)


def _take(rows: Rows, kept: Flags) -> Rows:
    return rows if kept.all() else take_rows(rows, np.flatnonzero(kept))
