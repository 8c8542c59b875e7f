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
        first, rest = _split(train, messages)
        self._trains[0] = rest
        return first

    def drain(self) -> list[Train]:
        """Remove and give everything."""
        trains, self._octets = list(self._trains), 0
        self._trains.clear()
        return trains


def _split(train: Train, messages: int) -> tuple[Train, Train]:
    """The first ``messages`` and the others; the sums of the flows are shared by records."""
    cut, counts = messages * train.size, train.counts
    share = int(counts[:messages].sum()) / max(1, train.records)
    packets, octets = round(train.packets * share), round(train.flow_octets * share)
    return (
        Train(train.octets[:cut], train.size, counts[:messages], packets, octets),
        Train(
            train.octets[cut:],
            train.size,
            counts[messages:],
            train.packets - packets,
            train.flow_octets - octets,
        ),
    )
