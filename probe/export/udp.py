"""Messages over UDP (RFC 7011 section 10.3): paced, never fragmented, never in the probe's way.

Nothing here blocks but ``flush``. A destination that cannot be reached costs its own messages
only, each counted; it is tried again after a growing pause, with its name looked up anew.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from probe.export.datagram import DatagramSocket
from probe.export.destination import Destination, parse_destination
from probe.export.pacing import TokenBucket
from probe.export.queue import TrainQueue
from probe.export.resolve import Resolution
from probe.ipfix.message import Train

__all__ = ["Destination", "UdpDestination", "UdpStatistics", "parse_destination"]

DEFAULT_QUEUE_OCTETS = 64 << 20
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
#: A name with several addresses: the next one is tried at once.
_NEXT_ADDRESS_PAUSE_S = 0.05
_RESOLVING_POLL_S = 0.05
#: Rest before trying a full socket buffer again.
_LEAST_WAIT_S = 0.001
#: A destination that took messages for so long without an error is reachable again.
_RECOVERED_S = 2.0
#: The path takes no message smaller than this: IPv6 has at least 1280 octets, IPv4 576.
_LEAST_MESSAGE = 512
_BUFFER_FULL = {errno.EAGAIN, errno.ENOBUFS}

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class UdpStatistics:
    """What became of the messages enqueued. ``errors`` counts failures, ``bursts`` runs of them."""

    sent_messages: int = 0
    sent_octets: int = 0
    sent_records: int = 0
    dropped_messages: int = 0
    dropped_records: int = 0
    errors: int = 0
    bursts: int = 0


class UdpDestination:
    """A destination with a bounded queue before its socket.

    ``max_message`` is the largest message to make, lowered when the path turns out narrower.
    ``queue_octets`` bounds what waits for the pace; what finds no room is dropped and counted.
    """

    def __init__(self, destination: Destination, queue_octets: int = DEFAULT_QUEUE_OCTETS) -> None:
        self.destination = destination
        self.max_message = destination.max_message
        self.statistics = UdpStatistics()
        self._bucket = TokenBucket(destination.pace)
        self._queue = TrainQueue(queue_octets)
        self._socket: DatagramSocket | None = None
        self._resolution: Resolution | None = None
        self._needs_templates = True
        self._attempts = 0
        self._more_addresses = False
        self._retry_at = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._failing = False
        self._well_since: float | None = None
        self._connect(time.monotonic())

    @property
    def is_down(self) -> bool:
        """Unreachable, and waiting to be tried again."""
        return self._socket is None and self._resolution is None

    @property
    def backlog(self) -> int:
        """Octets that wait to be sent."""
        return self._queue.octets

    def needs_templates(self) -> bool:
        """True once at start, and once after every time the destination was unreachable."""
        if self.is_down:
            return False
        needed, self._needs_templates = self._needs_templates, False
        return needed

    def enqueue(self, trains: Iterable[Train]) -> None:
        """Take messages for ``pump`` to send; when down or full they are dropped and counted."""
        for train in trains:
            if self.is_down or not self._queue.offer(train):
                self._count_dropped(train)

    def pump(self, now: float) -> float | None:
        """Send what the pace allows at ``now`` (monotonic s); when to call again, None: done."""
        if self._socket is None:
            self._connect(now)
        if self._socket is not None:
            self._use(self._socket, now)
        if self._resolution:
            return now + _RESOLVING_POLL_S
        if self.is_down:
            return self._retry_at
        return max(self._bucket.due(now), now + _LEAST_WAIT_S) if self._queue else None

    def flush(self, deadline: float) -> bool:
        """Send until nothing waits or ``deadline`` (monotonic s); drop the rest. True: all sent."""
        while self._queue and (now := time.monotonic()) < deadline:
            due = self.pump(now)
            if self.is_down or due is None:
                break
            time.sleep(max(0.0, min(due, deadline) - time.monotonic()))
        complete = not self._queue and not self.is_down
        self._drop_queue()
        return complete

    def local_address(self) -> tuple[str, int] | None:
        """(address, port) that messages leave from; None while there is no socket."""
        return self._socket.local_address if self._socket else None

    def close(self) -> None:
        self._drop_queue()
        if self._socket:
            self._socket.close()
            self._socket = None

    def _use(self, sender: DatagramSocket, now: float) -> None:
        if error := sender.pending_error():
            self._fail(error.strerror or str(error), now)
            return
        self._send_queue(sender, now)
        self._notice_recovery(now)

    def _send_queue(self, sender: DatagramSocket, now: float) -> None:
        allowance = self._bucket.allowance(now)
        while self._queue:
            train = self._queue.head
            count = int(min(len(train), allowance // train.size))
            if not count:
                return
            try:
                sent = sender.send(train.octets[: count * train.size], train.size)
            except OSError as error:
                if not self._survives(error, sender, now):
                    return
                continue
            if sent:
                self._count_sent(self._queue.shift(-(-sent // train.size)), now)
                self._bucket.spend(sent)
                allowance -= sent

    def _survives(self, error: OSError, sender: DatagramSocket, now: float) -> bool:
        """Deal with a failed send; whether the next may follow at once."""
        if error.errno in _BUFFER_FULL:
            return False
        if error.errno != errno.EMSGSIZE:
            self._fail(error.strerror or str(error), now)
            return False
        room = max(_LEAST_MESSAGE, min(sender.path_room(), self.max_message))
        if room < self.max_message:
            _log.info("%s: messages of %d octets from now on", self.destination, room)
            self.max_message = room
            sender.allow_segmentation()
        self.statistics.errors += 1
        self._count_dropped(self._queue.shift(1))
        return True

    def _connect(self, now: float) -> None:
        """Advance towards a socket: look the name up, then connect to the next address of it."""
        if self._resolution is None:
            if now < self._retry_at:
                return
            self._resolution = Resolution(self.destination.host, self.destination.port)
        addresses = self._resolution.addresses
        if addresses is None:
            return
        reason, self._resolution = self._resolution.error, None
        if not addresses:
            self._fail(f"cannot look up the name: {reason}", now)
            return
        address = addresses[self._attempts % len(addresses)]
        self._attempts += 1
        self._more_addresses = self._attempts % len(addresses) != 0
        try:
            self._socket = DatagramSocket(address, segmentation=not self._bucket.is_limited)
        except OSError as failure:
            self._fail(failure.strerror or str(failure), now)

    def _fail(self, reason: str, now: float) -> None:
        """The destination cannot be reached: drop what waits, pause, say so once per burst."""
        self.statistics.errors += 1
        if not self._failing:
            self._failing = True
            self.statistics.bursts += 1
            _log.warning("%s: %s; trying again", self.destination, reason)
        if self._socket:
            self._socket.close()
            self._socket = None
        self._drop_queue()
        self._needs_templates = True
        self._well_since = None
        if self._more_addresses:
            self._retry_at = now + _NEXT_ADDRESS_PAUSE_S
        else:
            self._retry_at = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _notice_recovery(self, now: float) -> None:
        if self._failing and self._well_since is not None and now - self._well_since > _RECOVERED_S:
            self._failing = False
            self._pause_s = _FIRST_PAUSE_S
            _log.info("%s: reachable again", self.destination)

    def _drop_queue(self) -> None:
        for train in self._queue.drain():
            self._count_dropped(train)

    def _count_sent(self, train: Train, now: float) -> None:
        if self._well_since is None:
            self._well_since = now
        self.statistics.sent_messages += len(train)
        self.statistics.sent_octets += len(train.octets)
        self.statistics.sent_records += train.records

    def _count_dropped(self, train: Train) -> None:
        self.statistics.dropped_messages += len(train)
        self.statistics.dropped_records += train.records
