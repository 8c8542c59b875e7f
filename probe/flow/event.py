"""What happens to flows and containers, when it happens: rows of events."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class EventKind(IntEnum):
    CONNECT = 1
    CONNECT_FAILED = 2
    ACCEPT = 3
    CLOSE = 4
    RETRANSMIT = 5
    SEND = 6  # the first datagram of a UDP flow, of each way
    RECV = 7
    CONTAINER_START = 8
    CONTAINER_STOP = 9


#: One event of one flow end. ``time_ns`` is Unix time; ``flow_id`` the id of the end in flow rows;
#: ``owner`` an OwnerTable index; ``remote_owner`` one, too, where the remote address is known to be
#: somebody's elsewhere; ``error`` the errno of a CONNECT_FAILED, 0 when unknown; ``count`` segments
#: sent again since the last RETRANSMIT of the flow, else 1. Octets are of the IP layer, since the
#: flow began, and of SEND and RECV those of the datagram. Events of containers have an owner, a
#: time, the cgroup's id as ``cookie``, and no flow: ``ip_version`` is 0.
EVENT_DTYPE = np.dtype(
    [
        ("time_ns", "i8"),
        ("flow_id", "u8"),
        ("cookie", "u8"),
        ("owner", "u8"),
        ("netns", "u8"),
        ("tx_octets", "u8"),
        ("rx_octets", "u8"),
        ("tx_packets", "u8"),
        ("rx_packets", "u8"),
        ("local_address", "u1", 16),
        ("remote_address", "u1", 16),
        ("local_port", "u2"),
        ("remote_port", "u2"),
        ("netns_inode", "u4"),
        ("ifindex", "u4"),
        ("rtt_us", "u4"),
        ("rtt_var_us", "u4"),
        ("error", "u4"),
        ("count", "u4"),
        ("kind", "u1"),
        ("ip_version", "u1"),
        ("protocol", "u1"),
        ("tcp_state", "u1"),
        ("role", "u1"),
        ("owner_source", "u1"),
        ("pad", "u1", 2),
        ("remote_owner", "u4"),
    ]
)

#: A socket that waits for peers: TCP in LISTEN (``tcp_state`` 10), UDP without one (7). One row
#: when it appears, and one with ``gone`` 1 when it is no more.
SOCKET_DTYPE = np.dtype(
    [
        ("owner", "u8"),
        ("cookie", "u8"),
        ("local_address", "u1", 16),
        ("netns_inode", "u4"),
        ("receive_queue", "u4"),
        ("local_port", "u2"),
        ("ip_version", "u1"),
        ("protocol", "u1"),
        ("tcp_state", "u1"),
        ("owner_source", "u1"),
        ("gone", "u1"),
        ("pad", "u1", 5),
    ]
)
