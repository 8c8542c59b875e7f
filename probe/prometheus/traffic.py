"""Sums Flow Records up by container for Prometheus, in bounded memory.

A container is counted under its names, so the counters go on after it is started again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.flow.codes import EndReason, Role
from probe.flow.label import name_in_pod
from probe.flow.owner import Container, Owner, OwnerTable, Pod
from probe.flow.rows import Rows

#: A container without records for so many seconds loses its series.
_IDLE_S = 3600.0
#: Seconds between two searches for such containers, while there is no room for a new one.
_RELEASE_S = 60.0
_FOLDED, _NOBODY = 0, -1


@dataclass(frozen=True, slots=True)
class ContainerLabels:
    """The labels of a container. ``container`` is what ``label.name_in_pod`` returns."""

    container: str = ""
    pod: str = ""
    namespace: str = ""


def container_labels(container: Container, pod: Pod) -> ContainerLabels:
    """Returns the labels of a container, which are the same in all metrics."""
    return ContainerLabels(name_in_pod(container, pod), pod.name, pod.namespace)


#: The labels of all without their own series. No interface and no container can have this name.
OTHERS = ContainerLabels("all others")

#: The columns of the sums.
COLUMNS = (
    "sent_octets", "sent_packets", "received_octets", "received_packets", "retransmitted", "lost",
    "rtt_us", "rtt_records", "client_flows", "server_flows", "other_flows",
)  # fmt: skip
_AT = {name: number for number, name in enumerate(COLUMNS)}


class ContainerTraffic:
    """The sums of at most ``limit`` containers, and one sum of all others."""

    def __init__(
        self,
        owners: OwnerTable,
        limit: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._owners, self._limit, self._monotonic = owners, limit, monotonic
        self._slots: dict[ContainerLabels, int] = {}
        self._free = list(range(limit, 0, -1))
        self._sums = np.zeros((limit + 1, len(COLUMNS)), np.int64)
        self._seen_s = np.zeros(limit + 1)
        self._release_at = 0.0
        #: The number of records of containers without their own sums.
        self.folded = 0

    def count(self, records: Rows) -> None:
        """Adds records (RECORD_DTYPE). Both directions of a flow come in the same call."""
        if not len(records):
            return
        now = self._monotonic()
        sources = self._slots_of(records["source_owner"], now)
        destinations = self._slots_of(records["destination_owner"], now)
        self._add(sources, "sent_octets", records["octets"])
        self._add(sources, "sent_packets", records["packets"])
        self._add(sources, "retransmitted", records["retransmitted"])
        self._add(sources, "lost", records["lost"])
        measured = np.where(records["rtt_us"] > 0, sources, _NOBODY)
        self._add(measured, "rtt_us", records["rtt_us"])
        self._add(measured, "rtt_records", np.ones(len(records), np.int64))
        self._add(destinations, "received_octets", records["octets"])
        self._add(destinations, "received_packets", records["packets"])
        self._count_flows(records, sources, destinations)

    def sums(self) -> dict[ContainerLabels, tuple[int, ...]]:
        """Returns the values of COLUMNS of each container, and of OTHERS if there are any."""
        self._release(self._monotonic())
        found = {labels: tuple(self._sums[slot].tolist()) for labels, slot in self._slots.items()}
        if self._sums[_FOLDED].any():
            found[OTHERS] = tuple(self._sums[_FOLDED].tolist())
        return found

    def _count_flows(
        self, records: Rows, sources: NDArray[np.int64], destinations: NDArray[np.int64]
    ) -> None:
        """Counts flows that have ended, each once: the records of both directions may say so."""
        ended = np.flatnonzero(records["end_reason"] != EndReason.ACTIVE_TIMEOUT)
        if not len(ended):
            return
        _, first = np.unique(records["flow_id"][ended], return_index=True)
        flows = ended[first]
        ones = np.ones(len(flows), np.int64)
        way = records["biflow_direction"][flows]
        for role, source, destination in (
            (Role.INITIATOR, "client_flows", "server_flows"),
            (Role.RESPONDER, "server_flows", "client_flows"),
            (Role.UNKNOWN, "other_flows", "other_flows"),
        ):
            self._add(np.where(way == role, sources[flows], _NOBODY), source, ones)
            self._add(np.where(way == role, destinations[flows], _NOBODY), destination, ones)

    def _add(self, slots: NDArray[np.int64], column: str, values: NDArray[np.integer]) -> None:
        present = slots >= 0
        if present.any():
            sums = np.bincount(
                slots[present], values[present].astype(np.float64), self._limit + 1
            )  # floats are exact below 2**53, more than any batch has
            self._sums[:, _AT[column]] += sums.astype(np.int64)

    def _slots_of(self, owners: NDArray[np.uint32], now: float) -> NDArray[np.int64]:
        """Returns the slot of each record's container, negative if there is none."""
        present = np.flatnonzero(np.bincount(owners))
        table = np.full(int(present[-1]) + 1, _NOBODY, np.int64)
        for index in present.tolist():
            table[index] = self._slot(self._owners[index], now)
        slots: NDArray[np.int64] = table[owners]
        self._seen_s[table[present]] = now
        self.folded += int((slots == _FOLDED).sum())
        return slots

    def _slot(self, owner: Owner, now: float) -> int:
        if (
            not owner.container.id or owner.container.is_proxy
        ):  # a proxy's traffic counts at the container behind it
            return _NOBODY
        labels = container_labels(owner.container, owner.pod)
        slot = self._slots.get(labels)
        if slot is None:
            if not self._free and now >= self._release_at:
                self._release(now)
            if not self._free:
                return _FOLDED
            slot = self._slots[labels] = self._free.pop()
            self._sums[slot] = 0
            self._seen_s[slot] = now
        return slot

    def _release(self, now: float) -> None:
        self._release_at = now + _RELEASE_S
        silent = (self._seen_s < now - _IDLE_S).tolist()
        for labels in [labels for labels, slot in self._slots.items() if silent[slot]]:
            self._free.append(self._slots.pop(labels))
