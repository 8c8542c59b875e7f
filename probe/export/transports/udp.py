"""Messages over UDP (RFC 7011 section 10.3): paced, as large as the path takes, never in the way.

Nothing here blocks but ``flush``. A destination that cannot be reached costs its own messages
only, each counted; it is tried again after a growing pause, with its name looked up anew.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterable

from probe.export.transports.datagram import DatagramSocket
from probe.export.transports.destination import Destination
from probe.export.transports.pacing import DEFAULT_BURST, TokenBucket
from probe.export.transports.queue import DatagramQueue
from probe.export.transports.reach import DEFAULT_LOOK_UP_S, Reach, reason_of
from probe.export.transports.statistics import SendStatistics
from probe.ipfix.message import Train

DEFAULT_QUEUE_OCTETS = 32 << 20
_RESOLVING_POLL_S = 0.05
#: Rest before trying a full socket buffer again.
_LEAST_WAIT_S = 0.001
_BUFFER_FULL = {errno.EAGAIN, errno.ENOBUFS}
#: News of the path for one message, after so many of which it is given up.
_MOST_REFUSALS = 100

_log = logging.getLogger(__name__)


class UdpSender:
    """A destination with a bounded queue before its socket.

    ``max_message`` is the largest message to make: less than the destination's where the path takes
    less. When that becomes less, ``pump`` sends nothing more until the next call, so that what
    waits can be cut anew; at another address nothing before ``needs_templates`` has said so.
    ``queue_octets`` bounds what waits for the pace; what finds no room is dropped and counted.
    The destination's name is looked up again every ``look_up_s``.
    """

    def __init__(
        self,
        destination: Destination,
        queue_octets: int = DEFAULT_QUEUE_OCTETS,
        look_up_s: float = DEFAULT_LOOK_UP_S,
    ) -> None:
        self.destination = destination
        self.max_message = destination.max_message
        self._statistics = SendStatistics()
        burst = max(DEFAULT_BURST, destination.max_message)  # or it could never leave
        self._bucket = TokenBucket(destination.pace, burst)
        self._burst = burst if destination.pace else queue_octets  # octets
        self._queue = DatagramQueue(queue_octets, self._statistics)
        self._socket: DatagramSocket | None = None
        self._reach = Reach(destination, self._statistics, look_up_s)
        self._needs_templates = True
        self._has_moved = False
        self._refusals = 0
        self._due = 0.0  # when all of a burst may leave
        self._connect(time.monotonic())

    @property
    def statistics(self) -> SendStatistics:
        self._queue.count()
        return self._statistics

    @property
    def is_down(self) -> bool:
        """Unreachable, and waiting to be tried again."""
        return self._socket is None and not self._reach.is_resolving

    @property
    def is_reliable(self) -> bool:
        """It takes Templates without an error for a while before it counts as reachable again."""
        return not self._reach.is_failing

    @property
    def backlog(self) -> int:
        """Octets that wait to be sent."""
        return self._queue.octets

    @property
    def is_stocked(self) -> bool:
        """More than one burst waits."""
        return self._queue.octets >= DEFAULT_BURST and not self.is_down

    def needs_templates(self) -> bool:
        """True once in each Transport Session: at start, after a failure, at another address."""
        if not self._needs_templates or self.is_down:
            return False
        self._needs_templates = False
        return True

    def first_sequence(self, domain: int) -> int | None:
        """A new address is a new Transport Session, and one that was away reads on."""
        return 0 if self._has_moved else None

    def take_backlog(self) -> list[Train]:
        """Remove and give all that waits."""
        return self._queue.drain()

    def enqueue(self, trains: Iterable[Train]) -> None:
        """Take messages for ``pump`` to send; when down or full they are dropped and counted."""
        for train in trains:
            if self.is_down or not self._queue.offer(train):
                self._statistics.count_dropped([train])

    def pump(self, now: float) -> float | None:
        """Send what the pace allows at ``now`` (monotonic s); when to call again, None: done."""
        sender = self._socket or self._connect(now)
        if sender and self._reach.has_moved(now):
            self._move(now)
        elif sender:
            self._use(sender, now)
        if self._socket is None:
            return now + _RESOLVING_POLL_S if self._reach.is_resolving else self._reach.retry_at
        self._due = max(self._bucket.due(now), now + _LEAST_WAIT_S)
        return self._due if self._queue.left else None

    def burst(self, now: float) -> float | None:
        """The next burst of a long train, as ``pump`` would send it; None: ``pump`` is needed.

        A busy destination has hundreds a second, each on a processor that has been at other things
        meanwhile: what is not executed need not be fetched.
        """
        queue, sender = self._queue, self._socket
        if not queue.left or sender is None or self._reach.is_failing:
            return None
        if now < self._due:
            return self._due
        size = queue.head.size
        count = self._burst // size
        if queue.left <= count:
            return None
        try:
            sent = sender.send(queue.head, queue.at, count)
        except OSError as error:
            self._survives(error, sender, now)
            return None
        queue.leave(sent)
        self._due = self._bucket.spend_full(sent * size, now)
        return self._due if sent == count else None

    def flush(self, deadline: float) -> bool:
        """Send until nothing waits or ``deadline`` (monotonic s); drop the rest. True: all sent."""
        while self._queue.left and (now := time.monotonic()) < deadline:
            due = self.pump(now)
            if self.is_down or due is None:
                break
            time.sleep(max(0.0, min(due, deadline) - time.monotonic()))
        complete = not self._queue.left and not self.is_down
        self._drop_queue()
        return complete

    def local_address(self) -> tuple[str, int] | None:
        """(address, port) that messages leave from; None while there is no socket."""
        return self._socket.local_address if self._socket else None

    def close(self) -> None:
        self._drop_queue()
        self._close_socket()

    def _use(self, sender: DatagramSocket, now: float) -> None:
        awaits_templates = self._has_moved and self._needs_templates
        if self._follow_path(sender) or awaits_templates:
            return
        if self._queue.left:
            self._send_queue(sender, now)
        elif error := sender.pending_error():  # which the next send would tell
            self._survives(error, sender, now)
        if self._reach.is_failing:
            self._reach.notice_recovery(now)

    def _send_queue(self, sender: DatagramSocket, now: float) -> None:
        """What may leave now of what waits; with a pace that is mostly one burst of one train."""
        queue, allowance = self._queue, self._bucket.allowance(now)
        while queue.left:
            size = queue.head.size
            count = int(min(queue.left, allowance / size))
            if not count:
                return
            try:
                sent = sender.send(queue.head, queue.at, count)
            except OSError as error:
                if not self._survives(error, sender, now):
                    return
                continue
            if sent:
                self._refusals = 0
                queue.leave(sent)
                self._bucket.spend(sent * size)
                allowance -= sent * size
                if self._reach.is_failing:
                    self._reach.works(now)

    def _survives(self, error: OSError, sender: DatagramSocket, now: float) -> bool:
        """Deal with a failed send; whether the next may follow at once."""
        if error.errno in _BUFFER_FULL:
            return False
        if error.errno == errno.EMSGSIZE:
            return self._survives_narrowing(error, sender)
        self._fail(reason_of(error), now)
        return False

    def _survives_narrowing(self, error: OSError, sender: DatagramSocket) -> bool:
        """An ICMP message about an earlier datagram, or a forged one: what waits may leave yet."""
        if self._follow_path(sender):
            return False
        self._refusals += 1
        if self._refusals >= _MOST_REFUSALS and self._queue.left:
            self._statistics.count_dropped([self._queue.drop()])
            self._reach.warn(reason_of(error))
            self._refusals = 0
        return self._queue.left > 0

    def _follow_path(self, sender: DatagramSocket) -> bool:
        """Let messages be as large as the path takes; whether they have to be smaller than before.

        The kernel knows of the link's MTU at once, and of a router's by ICMP. It forgets what ICMP
        said after ten minutes, so that a path that has grown is tried again.
        """
        largest = self.destination.max_message
        room = min(largest, sender.path_room() or largest)
        if room == self.max_message:
            return False
        _log.info("%s: messages of %d octets from now on", self.destination, room)
        is_narrower = room < self.max_message
        self.max_message = room
        sender.allow_segmentation()
        return is_narrower

    def _connect(self, now: float) -> DatagramSocket | None:
        """Advance towards a socket: look the name up, then connect to the next address of it."""
        try:
            address = self._reach.next_address(now)
            if address:
                wanted = self.destination.segmentation
                segments = not self._bucket.is_limited if wanted is None else wanted
                self._socket = DatagramSocket(address, segments)
                self._follow_path(self._socket)
        except OSError as error:
            self._fail(reason_of(error), now)
        return self._socket

    def _move(self, now: float) -> None:
        """The name has another address: what waits goes there, in a new Transport Session."""
        self._close_socket()
        self._needs_templates = self._has_moved = True
        self._connect(now)

    def _fail(self, reason: str, now: float) -> None:
        """The destination cannot be reached: drop what waits, pause."""
        self._reach.fail(reason, now)
        self._close_socket()
        self._drop_queue()
        self._needs_templates, self._has_moved = True, False

    def _close_socket(self) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None

    def _drop_queue(self) -> None:
        self._statistics.count_dropped(self._queue.drain())
