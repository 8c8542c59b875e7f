"""Passes lifecycle events from the collector to the destinations that take them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from probe.enrich.container_owners import ContainerOwners
from probe.flow.columns import EVENT_DTYPE, RECORD_DTYPE
from probe.flow.filter import FlowFilter
from probe.flow.rows import Rows, concatenate_rows, take_rows
from probe.run.own_traffic import OwnTraffic
from probe.sources.source import Source

if TYPE_CHECKING:
    from probe.run.exporter import Exporter

_MOST_WAITING = 65536


class EventFeed:
    """The feed of events from the collector, through the filter, to the destinations.

    The probe calls ``pass_on`` at every tick, and when the rings of the collector fill up. Events
    of a container whose name is not known yet wait for it, as flow records do. They wait together,
    so that the events of a flow stay in order. The filter sees events with their names.
    """

    def __init__(
        self,
        collector: Source,
        exporter: Exporter,
        owners: ContainerOwners,
        own: OwnTraffic,
        chosen: FlowFilter,
        name_remote: Callable[[Rows], object] | None = None,
    ) -> None:
        """``name_remote`` fills in the owners of remote ends in records (RECORD_DTYPE)."""
        self._collector = collector
        self._exporter = exporter
        self._owners = owners
        self._own = own
        self._chosen = chosen
        self._name_remote = name_remote
        self._waiting: Rows = np.zeros(0, EVENT_DTYPE)

    def pass_on(self, may_wait: bool = True) -> None:
        if not self._collector.tells_events:
            return
        came = self._own.take_out_events(self._collector.read_events())
        events = concatenate_rows([self._waiting, came]) if len(self._waiting) else came
        self._waiting = events[:0]
        if may_wait:
            events = self._hold(events, self._owners.nameless(time.monotonic()))
        events = self._chosen.select_events(events, self._owners)
        if len(events):
            if self._name_remote:
                events["remote_owner"] = _remote_owners(events, self._name_remote)
            self._exporter.send_events(events, time.time())

    def owners_in_use(self) -> set[int]:
        return set(self._waiting["owner"].tolist())

    def _hold(self, events: Rows, nameless: NDArray[np.int64]) -> Rows:
        """Keeps the events that wait for a name. Returns the others."""
        waits = np.isin(events["owner"], nameless)
        if not waits.any():
            return events
        held = np.flatnonzero(waits)[-_MOST_WAITING:]
        self._waiting = take_rows(events, held)
        return take_rows(events, np.setdiff1d(np.arange(len(events)), held, assume_unique=True))


def _remote_owners(events: Rows, name: Callable[[Rows], object]) -> NDArray[np.uint32]:
    """Returns the owners of the remote ends, as records of the same flows would have them."""
    records: Rows = np.zeros(len(events), RECORD_DTYPE)
    for end, side in (("local", "source"), ("remote", "destination")):
        for part in ("address", "port"):
            records[f"{side}_{part}"] = events[f"{end}_{part}"]
    records["protocol"], records["ip_version"] = events["protocol"], events["ip_version"]
    records["source_netns"] = 1  # the local end has its socket on this host
    records["first_ns"] = records["last_ns"] = records["begun_ns"] = events["time_ns"]
    name(records)
    found: NDArray[np.uint32] = np.where(
        events["ip_version"] != 0, records["destination_owner"], 0
    ).astype(np.uint32)
    return found
