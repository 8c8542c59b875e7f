"""Defines the counters of a Collecting Process."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields

from probe.ipfix.oddity import Oddity


@dataclass(slots=True)
class CollectorStatistics:
    messages: int = 0
    octets: int = 0
    records: int = 0
    option_records: int = 0
    template_records: int = 0
    #: Data Records that did not arrive, by the sequence numbers of IPFIX.
    lost_records: int = 0
    #: Messages that did not arrive, by the sequence numbers of NetFlow v9.
    lost_messages: int = 0
    #: Messages that are neither IPFIX nor NetFlow v9, or have octets that could not be read.
    errors: int = 0
    #: Sets whose Template is unknown, or not known yet.
    unknown_sets: int = 0
    #: Withdrawals over UDP or of unknown Templates, ids that were reused without a withdrawal, and
    #: Templates beyond the bound of their domain.
    template_errors: int = 0
    #: Domains that were dropped to make room for others.
    evicted_domains: int = 0
    oddities: Counter[Oddity] = field(default_factory=Counter)

    def add(self, other: CollectorStatistics) -> None:
        for name in _COUNTERS:
            if count := getattr(other, name):
                setattr(self, name, getattr(self, name) + count)
        self.oddities.update(other.oddities)


_COUNTERS = tuple(one.name for one in fields(CollectorStatistics) if one.name != "oddities")
