"""Messages over TCP (RFC 7011 section 10.4).

A message counts as sent when the collector's host has acknowledged all of it. What a connection
that breaks leaves unacknowledged goes to the next one; only a message that had arrived in part is
lost, and counted. (What a collector acknowledged and never read is lost unseen: IPFIX has no
acknowledgement of its own.)
"""

from __future__ import annotations

import time

from probe.export.transports.connection import TcpConnection
from probe.export.transports.destination import Destination
from probe.export.transports.reach import DEFAULT_LOOK_UP_S, Reach, reason_of
from probe.export.transports.resolve import Address
from probe.export.transports.stream_sender import DEFAULT_STREAM_QUEUE_OCTETS, StreamSenderBase

_RESOLVING_POLL_S = 0.05
#: A collector that has taken nothing for so long, though something waits, hangs.
_PATIENCE_S = 3.0


class TcpSender(StreamSenderBase):
    """A collector that is reached by TCP, its backlog kept while it is not.

    ``queue_octets`` bounds what waits and what is not yet acknowledged, together.
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
        """No connection, and the last attempt failed, also while another one is made; or it hangs.

        What waits for one that is down is not waited for when the probe ends.
        """
        return self._hangs or (not self._is_open and self._reach.is_failing)

    def pump(self, now: float) -> float | None:
        """Send what can be at ``now`` (monotonic s); when to call again, None: nothing waits."""
        try:
            return self._advance(now)
        except OSError as error:
            self._fail(reason_of(error), now)
            return self._reach.retry_at

    def local_address(self) -> tuple[str, int] | None:
        return self._connection.local_address if self._connection else None

    def close(self) -> None:
        """Orderly: what the kernel took is delivered first. Takes at most half a second."""
        if self._connection:
            if self._is_open:
                self._count_arrived(self._queue.acknowledge(self._connection.finish()))
            self._connection.close()
            self._connection = None
        super().close()

    def _new_connection(self, address: Address, now: float) -> TcpConnection:
        return TcpConnection(address, now)

    def _advance(self, now: float) -> float | None:
        """Connect, listen, send: as far as it goes. The result is that of ``pump``."""
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
        # What is on its way has to be watched, too: it is lost if it is not waited for at the end.
        return self._wait.next(now) if self._queue or connection.held else None

    def _watch_progress(self, unacknowledged: int, now: float) -> None:
        arrived = self.statistics.sent_octets + self._queue.taken - unacknowledged
        if arrived != self._arrived or not self._queue:
            self._arrived, self._progress_at = arrived, now
        self._hangs = now - self._progress_at > _PATIENCE_S

    def _write(self, pieces: list[memoryview]) -> int:
        return self._connection.write(pieces) if self._connection else 0

    def _fail(self, reason: str, now: float) -> None:
        """No connection, or no longer: keep what waits, pause."""
        self._leave()
        self._reach.fail(reason, now)

    def _leave(self) -> None:
        """End the connection at once: what it has not delivered goes to the next one."""
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
