"""Counts what became of the messages that a sender was given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from probe.ipfix.message import Train


@dataclass(slots=True)
class SendStatistics:
    """Counters of one sender, which only increase.

    ``errors`` counts failures; ``bursts`` counts runs of failures.

    ``records`` are Data Records, including those of options. ``flow_records`` are those of flows.
    ``dropped_packets`` and ``dropped_octets`` are those that the flow records in dropped messages
    report (notSentPacketTotalCount and its kin), not octets of messages.
    """

    sent_messages: int = 0
    sent_octets: int = 0
    sent_records: int = 0
    sent_flow_records: int = 0
    dropped_messages: int = 0
    dropped_records: int = 0
    dropped_flow_records: int = 0
    dropped_packets: int = 0
    dropped_octets: int = 0
    errors: int = 0
    bursts: int = 0

    def count_sent(self, trains: Iterable[Train]) -> None:
        for train in trains:
            self.count_messages(len(train), len(train.octets), train.records, train.packets > 0)

    def count_messages(self, messages: int, octets: int, records: int, of_flows: bool) -> None:
        self.sent_messages += messages
        self.sent_octets += octets
        self.sent_records += records
        self.sent_flow_records += records if of_flows else 0

    def count_lost(self, records: int, packets: int = 0, octets: int = 0) -> None:
        """Counts flow records that never became a message, and the packets and octets in them."""
        self.dropped_records += records
        self.dropped_flow_records += records
        self.dropped_packets += packets
        self.dropped_octets += octets

    def count_dropped(self, trains: Iterable[Train]) -> None:
        for train in trains:
            self.dropped_messages += len(train)
            self.dropped_records += train.records
            self.dropped_flow_records += train.flow_records
            self.dropped_packets += train.packets
            self.dropped_octets += train.flow_octets
