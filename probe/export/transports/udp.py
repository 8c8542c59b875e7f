"""Sends messages over UDP (RFC 7011 section 10.3), paced and as large as the path takes.

Only ``flush`` blocks. A destination that cannot be reached loses only its own messages, and each is
counted. Attempts follow after growing pauses, each with a new look-up of its name.

Theory of operation: messages wait in a queue for the pace. ``pump`` opens the socket, follows the
path's MTU and the name's address, and sends what the token bucket allows. ``burst`` is a short path
for the common case: a whole burst of a long train is due, and nothing else has to be done.
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
#: Pause before a full socket buffer is tried again.
_LEAST_WAIT_S = 0.001
_BUFFER_FULL = {errno.EAGAIN, errno.ENOBUFS}
#: A message is dropped after so many reports that it is too long for the path.
_MOST_REFUSALS = 100

_log = logging.getLogger(__name__)


class UdpSender:
    """A sender over UDP with a bounded queue before its socket.

    ``max_message`` is the largest message to make: that of the destination, or less if the path
    takes less. When it decreases, ``pump`` sends nothing more until the next call, so that the
    caller can cut what waits. At a new address it sends nothing until ``needs_templates`` has
    returned True. ``queue_octets`` bounds what waits for the pace; the rest is dropped and counted.
    The name of the destination is looked up again every ``look_up_s``.
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
        burst = max(DEFAULT_BURST, destination.max_message)  # a message must fit into a burst
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
        """True while the destination is unreachable and waits for another attempt."""
        return self._socket is None and not self._reach.is_resolving

    @property
    def is_reliable(self) -> bool:
        """False from a failure until it has taken Templates without an error for a while."""
        return not self._reach.is_failing

    @property
    def backlog(self) -> int:
        """Octets that wait to be sent."""
        return self._queue.octets

    @property
    def is_stocked(self) -> bool:
        """True if a whole burst waits."""
        return self._queue.octets >= DEFAULT_BURST and not self.is_down

    def needs_templates(self) -> bool:
        """Returns True once at the start, after each failure, and at each new address."""
        if not self._needs_templates or self.is_down:
            return False
        self._needs_templates = False
        return True

    def first_sequence(self, domain: int) -> int | None:
        """Returns 0 at a new address, which is a new Transport Session, else None."""
        return 0 if self._has_moved else None

    def take_backlog(self) -> list[Train]:
        """Removes and returns all that waits."""
        return self._queue.drain()

    def enqueue(self, trains: Iterable[Train]) -> None:
        """Takes messages for ``pump``. If it is down or full, they are dropped and counted."""
        for train in trains:
            if self.is_down or not self._queue.offer(train):
                self._statistics.count_dropped([train])

    def pump(self, now: float) -> float | None:
        """Sends what the pace allows at ``now`` (monotonic s).

        Returns when to call again, or None if nothing waits.
        """
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
        """Sends the next burst of a long train, as ``pump`` would.

        Returns when to call again, or None if ``pump`` is needed. A busy destination has hundreds
        of bursts a second, each with a cold processor cache. So this path executes little code.
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
        """Sends until nothing waits or ``deadline`` (monotonic s), and drops the rest.

        Returns True if all was sent.
        """
        while self._queue.left and (now := time.monotonic()) < deadline:
            due = self.pump(now)
            if self.is_down or due is None:
                break
            time.sleep(max(0.0, min(due, deadline) - time.monotonic()))
        complete = not self._queue.left and not self.is_down
        self._drop_queue()
        return complete

    def local_address(self) -> tuple[str, int] | None:
        """Returns the (address, port) that messages leave from, or None without a socket."""
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
        elif error := sender.pending_error():  # else the next send would raise it
            self._survives(error, sender, now)
        if self._reach.is_failing:
            self._reach.notice_recovery(now)

    def _send_queue(self, sender: DatagramSocket, now: float) -> None:
        """Sends what may leave now. With a pace that is mostly one burst of one train."""
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
        """Responds to a failed send. Returns True if the next may follow at once."""
        if error.errno in _BUFFER_FULL:
            return False
        if error.errno == errno.EMSGSIZE:
            return self._survives_narrowing(error, sender)
        self._fail(reason_of(error), now)
        return False

    def _survives_narrowing(self, error: OSError, sender: DatagramSocket) -> bool:
        """Responds to EMSGSIZE, which an ICMP message about an earlier datagram causes.

        What waits may still fit the path, or the ICMP message was forged. Returns True if the next
        send may follow at once.
        """
        if self._follow_path(sender):
            return False
        self._refusals += 1
        if self._refusals >= _MOST_REFUSALS and self._queue.left:
            self._statistics.count_dropped([self._queue.drop()])
            self._reach.warn(reason_of(error))
            self._refusals = 0
        return self._queue.left > 0

    def _follow_path(self, sender: DatagramSocket) -> bool:
        """Sets ``max_message`` to what the path takes. Returns True if it has become smaller.

        The kernel knows the MTU of the link at once, and that of routers by ICMP. It drops what it
        learned by ICMP after ten minutes, so that a larger MTU is tried again.
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
        """Looks the name up, then connects to its next address. Returns the socket, if any."""
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
        """Changes to the new address, where what waits is sent in a new Transport Session."""
        self._close_socket()
        self._needs_templates = self._has_moved = True
        self._connect(now)

    def _fail(self, reason: str, now: float) -> None:
        """Drops what waits and sets the pause, because the destination cannot be reached."""
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
