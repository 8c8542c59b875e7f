"""Sends messages over TCP (RFC 7011 section 10.4).

A message counts as sent when the collector's host has acknowledged all of it. After a broken
connection, unacknowledged messages are sent over the next one. Only a message that had arrived in
part is lost, and counted. A message that the host acknowledged and the collector never read is lost
without a count, because IPFIX has no acknowledgements of its own.
"""

from __future__ import annotations

import time

from probe.export.transports.connection import TcpConnection
from probe.export.transports.destination import Destination
from probe.export.transports.reach import DEFAULT_LOOK_UP_S, Reach, reason_of
from probe.export.transports.resolve import Address
from probe.export.transports.stream_sender import DEFAULT_STREAM_QUEUE_OCTETS, StreamSenderBase

_RESOLVING_POLL_S = 0.05
#: A collector that takes nothing for this time, while something waits, is considered to hang.
_PATIENCE_S = 3.0


class TcpSender(StreamSenderBase):
    """A sender to a collector over TCP that keeps its backlog while there is no connection.

    ``queue_octets`` bounds the sum of what waits and what is not yet acknowledged.
    """

    def __init__(
        self,
        destination: Destination,
        queue_octets: int = DEFAULT_STREAM_QUEUE_OCTETS,
        look_up_s: float = DEFAULT_LOOK_UP_S,
    ) -> None:
        super().__init__(destination, queue_octets)
        self._connection: TcpConnection | None = None
        self._reach = Reach(destination, self.statistics, look_up_s)
        self._arrived = 0  # octets, of all connections
        self._progress_at = 0.0
        self._hangs = False
        self.pump(time.monotonic())

    @property
    def is_down(self) -> bool:
        """True if the last attempt failed and there is no connection, or if the collector hangs.

        It stays True during the next attempt. The probe does not wait at its end for a destination
        that is down.
        """
        return self._hangs or (not self._is_open and self._reach.is_failing)

    def pump(self, now: float) -> float | None:
        """Sends what can leave at ``now`` (monotonic s).

        Returns when to call again, or None if nothing waits.
        """
        try:
            return self._advance(now)
        except OSError as error:
            self._fail(reason_of(error), now)
            return self._reach.retry_at

    def local_address(self) -> tuple[str, int] | None:
        return self._connection.local_address if self._connection else None

    def close(self) -> None:
        """Closes after the kernel has delivered what it took, or after half a second."""
        if self._connection:
            if self._is_open:
                self._count_arrived(self._queue.acknowledge(self._connection.finish()))
            self._connection.close()
            self._connection = None
        super().close()

    def _new_connection(self, address: Address, now: float) -> TcpConnection:
        return TcpConnection(address, now)

    def _advance(self, now: float) -> float | None:
        """Connects, listens and sends, as far as possible now. Returns the result of ``pump``."""
        if self._is_open and self._reach.has_moved(now):
            self._leave()
        if self._connection is None:
            address = self._reach.next_address(now)
            if address is None:
                resolving = self._reach.is_resolving
                return now + _RESOLVING_POLL_S if resolving else self._reach.retry_at
            self._connection = self._new_connection(address, now)
            self._wait.progress()
        if not self._is_open:
            self._is_open = self._connection.open(now)
            if not self._is_open:
                return self._wait.next(now)
            self._wait.progress()
            self._progress_at = now
        return self._use(self._connection, now)

    def _use(self, connection: TcpConnection, now: float) -> float | None:
        connection.listen()
        unacknowledged = connection.unacknowledged()
        self._count_arrived(self._queue.acknowledge(unacknowledged))
        self._watch_progress(unacknowledged, now)
        self._reach.works(now)
        self._reach.notice_recovery(now)
        if self._is_announced and self._send_waiting() and self._queue.waiting:
            return now
        # Octets on their way need polls, too: without a wait at the end they are lost.
        return self._wait.next(now) if self._queue or connection.held else None

    def _watch_progress(self, unacknowledged: int, now: float) -> None:
        arrived = self.statistics.sent_octets + self._queue.taken - unacknowledged
        if arrived != self._arrived or not self._queue:
            self._arrived, self._progress_at = arrived, now
        self._hangs = now - self._progress_at > _PATIENCE_S

    def _write(self, pieces: list[memoryview]) -> int:
        return self._connection.write(pieces) if self._connection else 0

    def _fail(self, reason: str, now: float) -> None:
        """Ends the connection, if any, keeps what waits, and sets the pause."""
        self._leave()
        self._reach.fail(reason, now)

    def _leave(self) -> None:
        """Ends the connection at once. What it has not delivered waits for the next one."""
        if self._connection:
            if self._is_open:
                unacknowledged = self._connection.unacknowledged()
                self._count_arrived(self._queue.acknowledge(unacknowledged))
            if self._queue.taken:
                self._connection.abort()
            else:
                self._connection.close()
            self._connection = None
        self.statistics.count_dropped(self._queue.rewind())
        self._is_open = self._is_announced = self._hangs = False
