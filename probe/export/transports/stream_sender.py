"""Provides what TCP, TLS and files share: a bounded queue that waits for a Transport Session.

Theory of operation: every new session begins with the Templates. So nothing is sent in it until the
caller has done three steps: it calls ``needs_templates``, removes the backlog, and queues the
Templates with the backlog behind them. ``_is_open`` is True while a session is open, and
``_is_announced`` once ``needs_templates`` has returned True in it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from probe.export.transports.destination import Destination
from probe.export.transports.queue import StreamQueue
from probe.export.transports.statistics import SendStatistics
from probe.ipfix.message import Train

#: Octets kept while the collector is down: some 140 000 records of the default Template.
DEFAULT_STREAM_QUEUE_OCTETS = 16 << 20
#: Octets that one ``pump`` sends at most, so that the other work of the probe continues.
_PUMP_OCTETS = 4 << 20
_LEAST_WAIT_S, _LONGEST_WAIT_S = 0.001, 0.05

_log = logging.getLogger(__name__)


class Wait:
    """Computes the pauses between polls of something that is not ready; they grow."""

    def __init__(self) -> None:
        self._pause_s = _LEAST_WAIT_S

    def progress(self) -> None:
        self._pause_s = _LEAST_WAIT_S

    def next(self, now: float) -> float:
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _LONGEST_WAIT_S)
        return now + pause_s


class StreamSenderBase:
    """The base of TcpSender and FileSender, which implement how octets leave."""

    keeps_order = True
    #: Octets of one ``_write`` at most.
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
        #: Whether a session is open, and whether its Templates were requested.
        self._is_open = self._is_announced = False
        self._wait = Wait()

    @property
    def is_down(self) -> bool:
        raise NotImplementedError

    @property
    def is_reliable(self) -> bool:
        """True unless it is down: a stream keeps messages during attempts, so it needs no trial."""
        return not self.is_down

    @property
    def backlog(self) -> int:
        """Octets that have not arrived yet, also while the collector is down."""
        return self._queue.octets

    @property
    def unfinished(self) -> int:
        """Octets that have not arrived, including those that the connection has taken."""
        return self._queue.octets

    @property
    def is_stocked(self) -> bool:
        """Always False: messages are as safe in this queue as unencoded records elsewhere."""
        return False

    def needs_templates(self) -> bool:
        """Returns True once in every new session."""
        needed = self._is_open and not self._is_announced
        self._is_announced |= needed
        return needed

    def first_sequence(self, domain: int) -> int:
        """Returns the first sequence number of the new session in an Observation Domain."""
        return 0

    def take_backlog(self) -> list[Train]:
        """Removes and returns all that waits. The caller must put it back in the same session."""
        return self._queue.drain()

    def enqueue(self, trains: Iterable[Train]) -> None:
        """Takes messages for ``pump``. With a full queue, the newest are dropped and counted."""
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
        """Sends until all has arrived or ``deadline`` (monotonic s).

        Stops if the destination is down, or a new session needs its Templates. The rest still
        waits. Returns True if all has arrived.
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
        """Writes ``pieces``, and returns how many octets were taken.

        Fewer than all means that no more can be taken at present. Raises OSError if it fails.
        """
        raise NotImplementedError

    def _send_waiting(self) -> bool:
        """Writes what waits. Returns True if more may be written at once. Raises OSError."""
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
