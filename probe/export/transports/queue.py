"""Queues of messages that wait to be sent, bounded in octets.

Theory of operation: a queue holds trains. A train is one block of octets with many messages of the
same size, of which only the last may be shorter. So a queue handles offsets into a few blocks, and
no Python object for each message.

- ``DatagramQueue``: a datagram leaves whole, and is done with once it has left. The queue advances
  ``at`` within its first train, and counts what left only when the statistics are read or the
  train is finished.
- ``StreamQueue``: octets leave in any portions, and arrive later. The queue keeps each message
  until the peer has acknowledged all of it::

      |  acknowledged part of a message  |  taken by the connection  |  waiting  |
      front <--------------------- taken ---------------------------> <- waiting ->

  When a connection breaks, ``rewind`` makes all that was taken wait again.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from probe.export.transports.statistics import SendStatistics
from probe.ipfix.message import Train


class TrainQueue:
    """A first-in, first-out queue of trains that holds at most ``limit`` octets."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._trains: deque[Train] = deque()
        self._octets = 0

    def __bool__(self) -> bool:
        return bool(self._trains)

    @property
    def octets(self) -> int:
        return self._octets

    def offer(self, train: Train) -> bool:
        """Adds ``train``. Returns False if there is no room for it."""
        if self.octets + len(train.octets) > self._limit:
            return False
        self._trains.append(train)
        self._octets += len(train.octets)
        return True

    def shift(self, messages: int) -> Train:
        """Removes and returns the first ``messages`` of the first train."""
        train = self._trains[0]
        cut = messages * train.size
        self._octets -= min(cut, len(train.octets))
        if cut >= len(train.octets):
            return self._trains.popleft()
        first, self._trains[0] = split_train(train, messages)
        return first

    def drain(self) -> list[Train]:
        """Removes and returns all trains."""
        trains, self._octets = list(self._trains), 0
        self._trains.clear()
        return trains


def split_train(train: Train, messages: int) -> tuple[Train, Train]:
    """Returns the first ``messages`` of ``train``, which are fewer than it has, and the others.

    Packets and octets of flows are divided in proportion to the records. The shares are rounded,
    but their sums are exact.
    """
    cut = messages * train.size
    counts, others = train.counts[:messages], train.counts[messages:]
    part, whole = sum(counts.tolist()), max(1, train.records)
    packets, flow_octets = train.packets * part // whole, train.flow_octets * part // whole
    return (
        Train(train.octets[:cut], train.size, counts, packets, flow_octets),
        Train(
            train.octets[cut:],
            train.size,
            others,
            train.packets - packets,
            train.flow_octets - flow_octets,
        ),
    )


class DatagramQueue(TrainQueue):
    """A queue whose first train leaves in steps. ``count`` brings the statistics up to date.

    With a pace there are many small steps, each with a cold processor cache. So a step only adds to
    a few plain attributes. ``head`` is the first train, while something waits. Its messages before
    ``at`` have left, and ``left`` of them have not; 0 means that nothing waits.
    """

    def __init__(self, limit: int, statistics: SendStatistics) -> None:
        super().__init__(limit)
        self._statistics = statistics
        self._counted = 0  # messages of the head, from its start, that are in the statistics
        self._begin()

    @property
    def octets(self) -> int:
        return self._octets - self.at * self.head.size if self.at else self._octets

    def offer(self, train: Train) -> bool:
        has_room = super().offer(train)
        if not self.left:
            self._begin()
        return has_room

    def leave(self, messages: int) -> None:
        """Notes that the next ``messages`` of the head have left."""
        self.at += messages
        self.left -= messages
        if not self.left:
            self.count()
            self.shift(self.at)
            self._begin()

    def count(self) -> None:
        """Adds the messages that have left to the statistics, if that is still to be done."""
        if self.at > self._counted:
            train, start, self._counted = self.head, self._counted, self.at
            octets = len(train.octets[start * train.size : self.at * train.size])
            records = sum(train.counts[start : self.at].tolist())
            self._statistics.count_messages(self.at - start, octets, records, train.packets > 0)

    def drop(self) -> Train:
        """Removes and returns the next message."""
        self._cut()
        dropped = self.shift(1)
        self._begin()
        return dropped

    def drain(self) -> list[Train]:
        self._cut()
        trains = super().drain()
        self._begin()
        return trains

    def _begin(self) -> None:
        """Makes the present first train the head."""
        self.at = self._counted = self.left = 0
        if self._trains:
            self.head = self._trains[0]
            self.left = len(self.head)

    def _cut(self) -> None:
        """Removes the messages that have left, before the rest of their train is dropped."""
        if self.at:
            self.count()
            self.shift(self.at)
            self._begin()


class StreamQueue(TrainQueue):
    """A queue of what the peer of a stream has not acknowledged, like the send queue of TCP.

    The connection has taken the first ``taken`` octets. A message leaves the queue when all of it
    is acknowledged. So after a broken connection the queue holds what the next one has to send.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._acknowledged = 0  # octets of the first message, never all of it
        self._full = 0  # trains of which the connection has taken all octets
        self._offset = 0  # octets of the next train that the connection has taken
        self.taken = 0

    @property
    def waiting(self) -> int:
        """Octets that the connection has not taken yet."""
        return self.octets - self.taken

    def pieces(self, limit: int, most: int = 64) -> list[memoryview]:
        """Returns up to ``limit`` octets that the connection should take next, without a copy.

        They come from ``most`` trains at most.
        """
        found, room, offset = [], limit, self._offset
        for train in islice(self._trains, self._full, self._full + most):
            found.append(train.octets[offset : offset + room])
            room -= len(found[-1])
            offset = 0
            if room <= 0:
                break
        return found

    def take(self, octets: int) -> None:
        """Notes that the connection has taken so many more octets."""
        self.taken += octets
        self._offset += octets
        while self._full < len(self._trains):
            length = len(self._trains[self._full].octets)
            if self._offset < length:
                return
            self._offset -= length
            self._full += 1

    def acknowledge(self, unacknowledged: int) -> list[Train]:
        """Removes and returns the messages that have arrived.

        ``unacknowledged`` is the number of octets that were taken and have not arrived.
        """
        arrived, done = self.taken - unacknowledged, []
        while self._trains:
            head = self._trains[0]
            length, size = len(head.octets), head.size
            messages = len(head) if arrived >= length else arrived // size
            if messages <= 0:
                break
            done.append(self.shift(messages))
            octets = len(done[-1].octets)
            arrived -= octets
            self.taken -= octets
            if octets == length:
                self._full -= 1
            elif not self._full:
                self._offset -= octets
        self._acknowledged = max(arrived, self._acknowledged if not done else 0)
        return done

    def rewind(self, keep_all: bool = False) -> list[Train]:
        """Makes all octets wait again, because the connection broke.

        A message that arrived in part is removed and returned, unless ``keep_all``.
        """
        lost = [self.shift(1)] if self._acknowledged and not keep_all else []
        self._acknowledged = self._full = self._offset = self.taken = 0
        return lost

    def drain(self) -> list[Train]:
        self._acknowledged = self._full = self._offset = self.taken = 0
        return super().drain()
