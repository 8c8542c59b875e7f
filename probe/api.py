"""Offers Sockflow as a library, which gives the flows of this host in batches of numpy arrays.

    from probe.api import Metering, address

    with Metering(include=["port=443"], duration=60) as metering:
        for batch in metering:
            for flow in batch.flows:
                source = batch.owners[flow["source_owner"]]
                print(source.process.name, address(flow, "destination"), flow["octets"])

The probe runs in the thread that iterates, in a loop of its own. It installs no signal handler, and
two ``Metering`` share nothing. All errors that a program can act on are a ``SockflowError``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.config import build
from probe.errors import ConfigError, KernelError, SockflowError
from probe.export.local import LocalSink
from probe.figures import Figures
from probe.flow.biflow import pair_directions
from probe.flow.codes import EndReason, EventKind, Role
from probe.flow.columns import EVENT_DTYPE, RECORD_DTYPE, SOCKET_DTYPE
from probe.flow.owner import Owner, OwnerTable
from probe.flow.rows import Rows
from probe.interfaces.interface import Interface
from probe.run.loop import Loop
from probe.run.probe import Probe
from probe.run.wiring import make_filter, open_probe
from probe.stop import StopRequest
from probe.view.describe import address_text

__all__ = [
    "EVENT_DTYPE", "RECORD_DTYPE", "SOCKET_DTYPE", "Batch", "ConfigError", "EndReason",
    "EventKind", "KernelError", "Metering", "Owner", "OwnerTable", "Role", "SockflowError",
    "address",
]  # fmt: skip

_KINDS = {"flows": RECORD_DTYPE, "events": EVENT_DTYPE, "sockets": SOCKET_DTYPE}


@dataclass(frozen=True, slots=True)
class Batch:
    """The flows, events and sockets since the previous batch. Each array may be empty.

    flows: RECORD_DTYPE, one row for each direction of a flow that had packets. Its counters count
    since the last row of that direction. A live flow has a row every ``active_timeout`` seconds,
    and its last row has the reason of its end.
    events: EVENT_DTYPE, oldest first. sockets: SOCKET_DTYPE, those that began or ceased to listen.
    owners: the table that the ``owner`` columns of the arrays index, where 0 is unknown. An index
    keeps its meaning until the next batch, and an ``Owner`` does not change.
    The caller may change the arrays.
    """

    flows: Rows
    events: Rows
    sockets: Rows
    owners: OwnerTable

    def __len__(self) -> int:
        return len(self.flows) + len(self.events) + len(self.sockets)

    def biflows(self) -> Rows:
        """Returns ``flows`` with one row per flow, whose source is the initiator."""
        return pair_directions(self.flows)


class Metering:
    """The probe of this host, for use in a ``with`` statement and one iteration.

    settings: those of ``sockflow run`` by their names in ``RunConfig``, such as
    ``collector="netlink"``, ``include=["pod=web-1"]``, ``duration=60``, ``active_timeout=10``
    (2 unless it is set). With ``destinations`` the same records are exported there as well.
    The traffic of the program itself is metered like any other.

    Raises ConfigError for wrong settings. ``__enter__`` raises KernelError if this host cannot be
    metered. Iteration gives a Batch every ``interval`` seconds. It ends after ``duration`` or
    ``stop``, and its last batches have the rest of the flow cache.
    """

    def __init__(self, **settings: object) -> None:
        self._config = build(settings)
        make_filter(self._config)  # raises ConfigError here already, not in __enter__
        self._stop = StopRequest()
        self._probe: Probe | None = None
        self._inbox = _Inbox()
        self._has_begun = False

    def __enter__(self) -> Metering:
        try:
            self._probe = open_probe(
                self._config, self._config.destinations, lambda _: [self._inbox], is_guest=True
            )
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Batch]:
        if self._probe is None or self._stop.fileno() < 0 or self._has_begun:
            raise SockflowError("iterate over a Metering once, inside of its with statement")
        self._has_begun = True
        return self._batches(self._probe)

    def stop(self) -> None:
        """Ends the iteration after the rest of the cache, or at once if it has not begun.

        Any thread may call it.
        """
        self._stop.request()

    def losses(self) -> Mapping[str, int]:
        """Returns counts of losses by cause, which never became rows. They are never reset."""
        return self._figures().losses

    def notices(self) -> Mapping[str, int]:
        """Returns counts by cause of late, split or less detailed data, which are no losses.

        They are never reset.
        """
        return self._figures().notices

    def close(self) -> None:
        """Detaches the probe. All that the iteration has not given is lost.

        The thread that iterates may call it, or any thread after the iteration.
        """
        if self._stop.fileno() >= 0:
            if self._probe:
                self._probe.close()
            self._stop.close()

    def _figures(self) -> Figures:
        return self._probe.figures() if self._probe else Figures()

    def _batches(self, probe: Probe) -> Iterator[Batch]:
        for _ in Loop(probe, self._stop).steps(self._config.duration):
            yield self._inbox.take(probe.owners)


def address(row: Any, end: str) -> str:
    """Returns ``{end}_address`` of a row as text.

    ``end`` is 'source' or 'destination' for flows, and 'local' or 'remote' for events.
    """
    return address_text(row, end)


class _Inbox(LocalSink):
    """A sink that keeps its arrays until the next ``take``."""

    def __init__(self) -> None:
        super().__init__("program")
        self._came: dict[str, list[Rows]] = {name: [] for name in _KINDS}

    def send(self, records: Rows, now_s: float) -> None:
        self._came["flows"].append(records)

    def send_events(self, events: Rows, now_s: float) -> None:
        self._came["events"].append(events.copy())

    def send_sockets(self, sockets: Rows, now_s: float) -> None:
        self._came["sockets"].append(sockets)

    def send_interfaces(self, links: list[Interface], now_s: float) -> None:
        """Ignores interfaces, which a Batch does not have."""

    def take(self, owners: OwnerTable) -> Batch:
        came = {
            name: np.concatenate([np.zeros(0, kind), *self._came[name]])
            for name, kind in _KINDS.items()
        }
        for parts in self._came.values():
            parts.clear()
        return Batch(**came, owners=owners)

    def summary(self) -> str:
        return ""
