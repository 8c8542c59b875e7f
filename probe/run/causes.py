"""Divides the problems of metering, which are counted by cause, into losses and notices.

Collectors, the cache and NAT count by cause. Most causes are losses: some traffic is in no record.
The others are notices: all traffic is exported, but later, in two records or with less detail.
Every output keeps the two apart.
"""

from __future__ import annotations

from collections.abc import Mapping

#: The causes of notices, each with the text that explains its count. Other causes are losses.
NOTICES = {
    "snapshot_full": "flow ends that waited for the next pass over the sockets",
    "dumps_interrupted": "dumps during which a table changed; the next one has the rest",
    "late_packets": "packets of ends that came late, when their peer had told them already",
    "flows_evicted": "flows that left the full cache early, and have one record more if they go on",
    "nat_not_looked_up": "records whose translation, if any, was not asked for: there was no time",
    "ended_interfaces_untold": "interfaces that are gone, of whose last counters a destination or "
    "a scraper was not told: more came and went between two readings than are kept",
    "nat_unread": "answers of connection tracking that could not be read",
}


def split(counts: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Returns the losses and the notices of ``counts``."""
    losses = {cause: count for cause, count in counts.items() if cause not in NOTICES}
    return losses, {cause: count for cause, count in counts.items() if cause in NOTICES}
