"""What TCP, TLS and files share: a bounded queue that waits for a Transport Session.

Every new session begins with the Templates, so nothing is sent in it before the caller has asked
``needs_templates`` and put the backlog back behind them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from probe.export.transports.destination import Destination
from probe.export.transports.queue import StreamQueue
from probe.export.transports.statistics import SendStatistics
from probe.ipfix.message import Train

#: Kept while the collector is down: some 140 000 records of the default Template.
DEFAULT_STREAM_QUEUE_OCTETS = 16 << 20
#: Octets that one pump sends, so that the probe's other work goes on.
_PUMP_OCTETS = 4 << 20
_LEAST_WAIT_S, _LONGEST_WAIT_S = 0.001, 0.05

_log = logging.getLogger(__name__)


class Wait:
    """Pauses between looks at something that is not ready: short at first, then longer."""

    def __init__(self) -> None:
        self._pause_s = _LEAST_WAIT_S

    def progress(self) -> None:
        self._pause_s = _LEAST_WAIT_S

    def next(self, now: float) -> float:
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _LONGEST_WAIT_S)
        return now + pause_s


class StreamSenderBase:
    """The base of TcpSender and FileSender, which know how octets leave."""

    keeps_order = True
    #: Octets of one ``_write``.
    _write_octets = 1 << 20

    def __init__(
        self, destination: Destination, queue_octets: int = DEFAULT_STREAM_QUEUE_OCTETS
    ) -> None:
        self.destination = destination
        self.max_message = destination.max_message
        self.statistics = SendStatistics()
        self._queue = StreamQueue(queue_octets)
        self._queue_octets = queue_octets
        self._is_overflowing = False
        #: A session is open; its Templates were asked for.
        self._is_open = self._is_announced = False
        self._wait = Wait()

    @property
    def is_down(self) -> bool:
        raise NotImplementedError

    @property
    def is_reliable(self) -> bool:
        """What it takes is not lost while it is tried again."""
        return not self.is_down

    @property
    def backlog(self) -> int:
        """Octets that have not arrived yet, those for a collector that is down included."""
        return self._queue.octets

    @property
    def unfinished(self) -> int:
        """Octets that have not arrived, those included that the connection has taken."""
        return self._queue.octets

    @property
    def is_stocked(self) -> bool:
        """Never: what a stream is given is as safe as what waits elsewhere."""
        return False

    def needs_templates(self) -> bool:
        """True once in every new session."""
        needed = self._is_open and not self._is_announced
        self._is_announced |= needed
        return needed

    def first_sequence(self, domain: int) -> int:
        """Of the session that ``needs_templates`` told of, in an Observation Domain."""
        return 0

    def take_backlog(self) -> list[Train]:
        """Remove and give all that waits. To be put back in the same session."""
        return self._queue.drain()

    def enqueue(self, trains: Iterable[Train]) -> None:
        """Take messages for ``pump`` to send; the newest are dropped and counted when full."""
        for train in trains:
            if self._queue.offer(train):
                continue
            self.statistics.count_dropped([train])
            if not self._is_overflowing:
                self._is_overflowing = True
                _log.warning(
                    "%s: %d octets wait already; what comes is dropped until there is room",
                    self.destination,
                    self._queue.octets,
                )

    def pump(self, now: float) -> float | None:
        raise NotImplementedError

    def flush(self, deadline: float) -> bool:
        """Send until all arrived or ``deadline`` (monotonic s); what did not still waits.

        Gives up when the destination is down, or a new session wants its Templates.
        """
        while self._queue and (now := time.monotonic()) < deadline:
            due = self.pump(now) or self._wait.next(now)
            if self.is_down or (self._is_open and not self._is_announced):
                break
            if self._queue:
                time.sleep(max(0.0, min(due, deadline) - time.monotonic()))
        return not self._queue and not self.is_down

    def close(self) -> None:
        self._is_open = False
        self.statistics.count_dropped(self._queue.drain())

    def _write(self, pieces: list[memoryview]) -> int:
        """Octets of ``pieces`` that were taken; fewer: no more can be now. Raises OSError."""
        raise NotImplementedError

    def _send_waiting(self) -> bool:
        """Hand over what waits; whether more may be handed over at once. Raises OSError."""
        room = _PUMP_OCTETS
        while room > 0 and (pieces := self._queue.pieces(min(room, self._write_octets))):
            taken = self._write(pieces)
            self._queue.take(taken)
            if taken:
                self._wait.progress()
            if taken < sum(map(len, pieces)):
                return False
            room -= taken
        return True

    def _count_arrived(self, trains: list[Train]) -> None:
        self.statistics.count_sent(trains)
        if 2 * self._queue.octets <= self._queue_octets:
            self._is_overflowing = False
