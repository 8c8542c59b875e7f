"""Numbers the messages for ntopng, and queues them until they can leave."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from probe.export.transports.statistics import SendStatistics
from probe.ntopng.frames import FLOW, JSON, TLV, encode_header
from probe.ntopng.tlv import TlvPayload

#: Octets of headers and payloads that may wait.
DEFAULT_QUEUE_OCTETS = 16 << 20

Send = Callable[[bytes, bytes], bool]


class Outbox:
    """A first-in, first-out queue that holds at most ``limit`` octets and drops newer messages.

    Every message gets a number when it is added, even if it finds no room. ntopng counts a gap in
    the numbers as lost messages, and so counts what was dropped here. There are no other gaps,
    except for messages on their way over a connection that broke.
    """

    def __init__(self, source_id: int, limit: int = DEFAULT_QUEUE_OCTETS) -> None:
        self.statistics = SendStatistics()
        self.octets = 0
        self._source_id = source_id
        self._limit = limit
        self._next_id = 1
        self._waiting: deque[tuple[bytes, TlvPayload]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add_flows(self, payload: TlvPayload, version: int = TLV) -> None:
        self._add(FLOW, version, payload)

    def add_json(self, topic: str, octets: bytes) -> None:
        self._add(topic, JSON, TlvPayload(octets, 0, 0, 0))

    def send(self, send: Send) -> bool:
        """Passes what waits to ``send``, until that returns False. Returns True if all has left."""
        while self._waiting:
            header, payload = self._waiting[0]
            if not send(header, payload.octets):
                return False
            self._waiting.popleft()
            octets = len(header) + len(payload.octets)
            self.octets -= octets
            self.statistics.sent_messages += 1
            self.statistics.sent_octets += octets
            self.statistics.sent_records += payload.flows
            self.statistics.sent_flow_records += payload.flows
        return True

    def drop(self) -> None:
        """Drops and counts all that waits."""
        while self._waiting:
            self._count_dropped(self._waiting.popleft()[1])
        self.octets = 0

    def _add(self, topic: str, version: int, payload: TlvPayload) -> None:
        size = len(payload.octets)
        header = encode_header(topic, version, size, self._next_id, self._source_id)
        self._next_id += 1
        if self.octets + len(header) + size > self._limit:
            self._count_dropped(payload)
            return
        self.octets += len(header) + size
        self._waiting.append((header, payload))

    def _count_dropped(self, payload: TlvPayload) -> None:
        self.statistics.dropped_messages += 1
        self.statistics.dropped_records += payload.flows
        self.statistics.dropped_flow_records += payload.flows
        self.statistics.dropped_packets += payload.packets
        self.statistics.dropped_octets += payload.flow_octets
