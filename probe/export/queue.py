"""What waits to be sent: trains of messages, bounded in octets."""

from __future__ import annotations

from collections import deque

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
        if self._octets + len(train.octets) > self._limit:
            return False
        self._trains.append(train)
        self._octets += len(train.octets)
        return True

    @property
    def head(self) -> Train:
        return self._trains[0]

    def shift(self, messages: int) -> Train:
        """Remove the first ``messages`` of the head and give them."""
        train = self._trains[0]
        cut = messages * train.size
        self._octets -= min(cut, len(train.octets))
        if cut >= len(train.octets):
            return self._trains.popleft()
        # Messages of a train may differ in their records; shares are rounded, the sum is exact.
        records = train.records * messages // len(train)
        self._trains[0] = Train(train.octets[cut:], train.size, train.records - records)
        return Train(train.octets[:cut], train.size, records)

    def drain(self) -> list[Train]:
        """Remove and give everything."""
        trains, self._octets = list(self._trains), 0
        self._trains.clear()
        return trains
