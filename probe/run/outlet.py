"""Keeps the error of one destination from ending anything but that destination.

Records that it has not sent by then are dropped and counted. So are the records that it would have
been given later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from probe.export.message_sink import MessageSink
from probe.export.sink import Abandoning, EventSink, OwnerKeeping, Pairing, Sink
from probe.flow.key_index import distinct
from probe.flow.rows import Rows
from probe.guard import Part
from probe.run.own_traffic import Endpoint

if TYPE_CHECKING:
    from probe.export.transports.statistics import SendStatistics
    from probe.interfaces.interface import Interface

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Outlet:
    """A sink together with its part, which an error of the sink ends."""

    def __init__(self, sink: Sink, part: Part) -> None:
        self.sink = sink
        self.part = part
        self.name = sink.name
        self._is_closed = False

    # -- input -------------------------------------------------------------------------------------
    def send(self, records: Rows, now_s: float) -> None:
        if self.part.error:
            self._count_lost(records)
            return
        try:
            self.sink.send(records, now_s)
        except Exception as error:
            self.fail(error, records)

    def send_events(self, events: Rows, now_s: float) -> None:
        if isinstance(self.sink, EventSink):
            self.do(self.sink.send_events, events, now_s)

    def send_sockets(self, sockets: Rows, now_s: float) -> None:
        if isinstance(self.sink, EventSink):
            self.do(self.sink.send_sockets, sockets, now_s)

    def send_interfaces(self, links: Sequence[Interface], now_s: float) -> None:
        if isinstance(self.sink, EventSink):
            self.do(self.sink.send_interfaces, links, now_s)

    def forget(self, owners: list[int]) -> None:
        self.do(self.sink.forget, owners)

    def announce_interfaces(self) -> None:
        self.do(self.sink.announce_interfaces)

    # -- actions -----------------------------------------------------------------------------------
    def pump(self, now: float) -> float | None:
        if self.part.error:
            return None
        try:
            return self.sink.pump(now)
        except Exception as error:
            self.fail(error)
            return None

    def finish(self, now_s: float) -> None:
        self.do(self.sink.finish, now_s)

    def close(self, deadline: float) -> None:
        """Sends until ``deadline`` (monotonic seconds), then drops and counts the rest."""
        self.do(self.sink.flush, deadline)
        if self.part.is_on:
            self.do(self._close)

    def fail(self, error: Exception, records: Rows | None = None) -> None:
        """Ends the sink, which raised ``error`` when it was given ``records``."""
        self.part.fail(error)
        try:
            if isinstance(self.sink, Abandoning):
                self.sink.abandon(records)
            else:
                self._count_lost(records)
                self._close()
        except Exception:  # the sink has ended all the same
            _log.debug("%s cannot be closed", self.name, exc_info=True)

    # -- state -------------------------------------------------------------------------------------
    @property
    def statistics(self) -> SendStatistics:
        return self.sink.statistics

    @property
    def is_down(self) -> bool:
        return self._ask(lambda: self.sink.is_down, True)

    @property
    def is_reliable(self) -> bool:
        return self._ask(lambda: self.sink.is_reliable, False)

    @property
    def backlog(self) -> int:
        """Returns the number of octets that wait to be sent."""
        return self._ask(lambda: self.sink.backlog, 0)

    @property
    def unfinished(self) -> int:
        """Returns the number of octets that the probe should wait for at its end."""
        sink = self.sink
        if isinstance(sink, MessageSink):
            return self._ask(lambda: sink.unfinished, 0)
        return 0 if self.is_down else self.backlog

    def local_address(self) -> Endpoint | None:
        return self._ask(self.sink.local_address, None)

    def owners_in_use(self) -> set[int]:
        if not isinstance(self.sink, OwnerKeeping):
            return set()
        return self._ask(self.sink.owners_in_use, set())

    def summary(self) -> str:
        """Returns the summary of the sink, also after an error if the sink can still give it."""
        try:
            text = self.sink.summary()
        except Exception as error:
            text = type(error).__name__
        errors = self.statistics.errors
        said = f"{text}, {errors} errors" if errors else text
        return f"{said}, ended by {self.part.error}" if self.part.error else said

    def _ask(self, action: Callable[[], _T], otherwise: _T) -> _T:
        if self.part.error:
            return otherwise
        try:
            return action()
        except Exception as error:
            self.fail(error)
            return otherwise

    def do(self, action: Callable[..., object], *args: object) -> None:
        """Calls any other method of the sink. An error ends the sink, and is not raised."""
        if not self.part.error:
            try:
                action(*args)
            except Exception as error:
                self.fail(error)

    def _close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self.sink.close()

    def _count_lost(self, records: Rows | None) -> None:
        if records is None:
            return
        count = len(records)
        if isinstance(self.sink, Pairing) and self.sink.pairs_directions:
            count = len(distinct(records["flow_id"]))
        packets, octets = int(records["packets"].sum()), int(records["octets"].sum())
        self.sink.statistics.count_lost(count, packets, octets)
