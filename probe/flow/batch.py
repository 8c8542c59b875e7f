"""The data model: rows that collectors read, and records that the Metering Process gives out.

A ``FlowBatch`` holds one row per *flow end* (a TCP socket, or a UDP socket with one peer) with
counters as deltas since the previous row of that end; its dtype comes from the BTF of the kernel
object (``struct sent_row`` in ``bpf/flow.h``). A ``FlowRecords`` array holds one row per
*direction* that is due for export. Names are not in either: ``owner`` columns are indices into
an ``OwnerTable``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.void]


class Role(IntEnum):
    UNKNOWN = 0
    INITIATOR = 1
    RESPONDER = 2


class OwnerSource(IntEnum):
    """How the owner of a flow end was found."""

    UNKNOWN = 0
    SOCKET_CALL = 1
    LISTENER = 2
    DESCRIPTOR = 3
    ADDRESS = 4  # of another host: who has the address
    CGROUP = 5  # no process: the cgroup that the socket was made in
    SHARED = 6  # one of several processes that take turns at using the socket


#: Added to an OwnerSource of a record: no runtime confirms the container of that owner; the path of
#: its executable is only what the process was told, and may have overwritten.
UNCONFIRMED, UNCONFIRMED_PATH = 16, 32


class Mark(IntFlag):
    CLOSED = 1
    PREEXISTING = 2
    ESTIMATED = 4
    BY_TUPLE = 8  # a TCP end whose initial sequence numbers cannot be known
    GROUP = 16  # a UDP end that gets copies of what is sent to many: multicast, broadcast


class EndReason(IntEnum):
    """IANA flowEndReason (136)."""

    IDLE_TIMEOUT = 1
    ACTIVE_TIMEOUT = 2
    END_OF_FLOW = 3
    FORCED_END = 4
    LACK_OF_RESOURCES = 5


#: Columns that every collector must deliver, with their kinds ('u1[16]' is sixteen octets).
ROW_COLUMNS: dict[str, str] = {
    "id": "u8",
    "cookie": "u8",
    "owner": "u8",
    "netns": "u8",
    "start_ns": "u8",
    "last_ns": "u8",
    "tx_octets": "u8",
    "rx_octets": "u8",
    "tx_packets": "u8",
    "rx_packets": "u8",
    "pacing_rate": "u8",
    "delivery_rate": "u8",
    "local_address": "u1[16]",
    "remote_address": "u1[16]",
    "local_port": "u2",
    "remote_port": "u2",
    "netns_inode": "u4",
    "ifindex": "u4",
    "isn_local": "u4",
    "isn_remote": "u4",
    "rtt_us": "u4",
    "rtt_var_us": "u4",
    "retransmitted": "u4",
    "lost": "u4",
    "unacknowledged": "u4",
    "congestion_window": "u4",
    "ip_version": "u1",
    "protocol": "u1",
    "tcp_state": "u1",
    "role": "u1",
    "tx_flags": "u1",
    "rx_flags": "u1",
    "dscp": "u1",
    "owner_source": "u1",
    "mark": "u1",
}

#: One direction of a flow, ready for export. Times are Unix nanoseconds. Where ``translated`` is
#: not 0 the nat columns are the Flow Key as it left the host's NAT (RFC 8158); else they are 0.
RECORD_DTYPE = np.dtype(
    [
        ("flow_id", "u8"),
        ("first_ns", "i8"),
        ("last_ns", "i8"),
        ("begun_ns", "i8"),  # the flow, and not this record of it; 0: with the record
        ("octets", "u8"),
        ("packets", "u8"),
        ("source_address", "u1", 16),
        ("destination_address", "u1", 16),
        ("source_port", "u2"),
        ("destination_port", "u2"),
        ("nat_source_port", "u2"),
        ("nat_destination_port", "u2"),
        ("source_owner", "u4"),
        ("destination_owner", "u4"),
        ("source_netns", "u8"),
        ("destination_netns", "u8"),
        ("source_netns_inode", "u4"),
        ("destination_netns_inode", "u4"),
        ("source_ifindex", "u4"),  # as the namespace of that end counts its interfaces
        ("destination_ifindex", "u4"),
        ("rtt_us", "u4"),
        ("rtt_var_us", "u4"),
        ("retransmitted", "u4"),
        ("lost", "u4"),
        ("unacknowledged", "u4"),  # segments; this and the next three: of the sender, latest
        ("congestion_window", "u4"),  # segments
        ("pacing_rate", "u8"),  # octets a second
        ("delivery_rate", "u8"),
        ("ingress_interface", "u4"),
        ("egress_interface", "u4"),
        ("nat_source_address", "u1", 4),
        ("nat_destination_address", "u1", 4),
        ("protocol", "u1"),
        ("ip_version", "u1"),
        ("flow_direction", "u1"),
        ("biflow_direction", "u1"),
        ("end_reason", "u1"),
        ("tcp_flags", "u1"),
        ("tcp_state", "u1"),
        ("dscp", "u1"),
        ("source_owner_source", "u1"),
        ("destination_owner_source", "u1"),
        ("estimated", "u1"),
        ("translated", "u1"),
        ("pad", "u1", 4),
    ]
)


@dataclass(slots=True)
class FlowBatch:
    """Rows of one read. ``rows['owner']`` holds OwnerTable indices (0: unknown)."""

    rows: Rows

    def __post_init__(self) -> None:
        missing = [name for name in ROW_COLUMNS if name not in (self.rows.dtype.names or ())]
        if missing:
            raise ValueError(f"flow rows lack the columns {', '.join(missing)}")

    def __len__(self) -> int:
        return len(self.rows)


def row_dtype() -> np.dtype[np.void]:
    """A dtype with the columns of ROW_COLUMNS, for collectors without a kernel object and tests."""
    fields: list[tuple[str, str] | tuple[str, str, int]] = []
    for name, kind in ROW_COLUMNS.items():
        base, _, count = kind.rstrip("]").partition("[")
        fields.append((name, base, int(count)) if count else (name, base))
    return np.dtype(fields)
