"""What waits to be sent: trains of messages, bounded in octets."""

from __future__ import annotations

from collections import deque
from itertools import islice

from probe.export.transports.statistics import SendStatistics
from probe.ipfix.message import Train


class TrainQueue:
    """First in, first out; holds at most ``limit`` octets."""

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
        """Take ``train``; False when there is no room for it."""
        if self.octets + len(train.octets) > self._limit:
            return False
        self._trains.append(train)
        self._octets += len(train.octets)
        return True

    def shift(self, messages: int) -> Train:
        """Remove the first ``messages`` of the head and give them."""
        train = self._trains[0]
        cut = messages * train.size
        self._octets -= min(cut, len(train.octets))
        if cut >= len(train.octets):
            return self._trains.popleft()
        first, self._trains[0] = split_train(train, messages)
        return first

    def drain(self) -> list[Train]:
        """Remove and give everything."""
        trains, self._octets = list(self._trains), 0
        self._trains.clear()
        return trains


def split_train(train: Train, messages: int) -> tuple[Train, Train]:
    """The first ``messages`` of ``train``, fewer than it has, and the others.

    Packets and octets of flows are shared by records: rounded, but their sums are exact.
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
    """Messages of the first train leave by and by, and are counted when somebody looks.

    A pace makes many small steps, on a processor whose cache others have filled meanwhile: so a
    step is a few sums of plain attributes. ``head`` is the first train, while something waits; its
    messages before ``at`` have left, ``left`` have not (0: nothing waits).
    """

    def __init__(self, limit: int, statistics: SendStatistics) -> None:
        super().__init__(limit)
        self._statistics = statistics
        self._counted = 0  # messages of the head, the first of those before ``at``
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
        """So many more of the head have left."""
        self.at += messages
        self.left -= messages
        if not self.left:
            self.count()
            self.shift(self.at)
            self._begin()

    def count(self) -> None:
        """Bring the statistics up to date."""
        if self.at > self._counted:
            train, start, self._counted = self.head, self._counted, self.at
            octets = len(train.octets[start * train.size : self.at * train.size])
            records = sum(train.counts[start : self.at].tolist())
            self._statistics.count_messages(self.at - start, octets, records, train.packets > 0)

    def drop(self) -> Train:
        """Remove the next message and give it."""
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
        """With the first train, whichever that is now."""
        self.at = self._counted = self.left = 0
        if self._trains:
            self.head = self._trains[0]
            self.left = len(self.head)

    def _cut(self) -> None:
        """A train is divided only where its rest is dropped."""
        if self.at:
            self.count()
            self.shift(self.at)
            self._begin()


class StreamQueue(TrainQueue):
    """What a stream was given and its peer has not yet acknowledged, as TCP's own send queue.

    ``taken`` octets from the front are with the connection. Whole messages leave when they are
    acknowledged, so that a connection that breaks leaves here what its successor has to send.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._acknowledged = 0  # octets of the first message, fewer than it has
        self._full = 0  # trains that the connection has taken whole
        self._offset = 0  # octets of the next train that it has taken
        self.taken = 0

    @property
    def waiting(self) -> int:
        """Octets that the connection has not taken."""
        return self.octets - self.taken

    def pieces(self, limit: int, most: int = 64) -> list[memoryview]:
        """Up to about ``limit`` octets that the connection should take next, not copied."""
        found, room, offset = [], limit, self._offset
        for train in islice(self._trains, self._full, self._full + most):
            found.append(train.octets[offset : offset + room])
            room -= len(found[-1])
            offset = 0
            if room <= 0:
                break
        return found

    def take(self, octets: int) -> None:
        """The connection took so many more."""
        self.taken += octets
        self._offset += octets
        while self._full < len(self._trains):
            length = len(self._trains[self._full].octets)
            if self._offset < length:
                return
            self._offset -= length
            self._full += 1

    def acknowledge(self, unacknowledged: int) -> list[Train]:
        """Remove and give the messages that arrived, when so many octets taken have not."""
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
        """The connection broke: what it took waits again.

        A message of which a part arrived is removed and given, unless ``keep_all``.
        """
        lost = [self.shift(1)] if self._acknowledged and not keep_all else []
        self._acknowledged = self._full = self._offset = self.taken = 0
        return lost

    def drain(self) -> list[Train]:
        self._acknowledged = self._full = self._offset = self.taken = 0
        return super().drain()
