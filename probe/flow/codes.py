"""Numbers that columns of flows and events have, under their names."""

from __future__ import annotations

from enum import IntEnum, IntFlag

#: protocolIdentifier.
TCP, UDP = 6, 17


class Role(IntEnum):
    """Who began the flow, as seen from an end; in records as seen from the source."""

    UNKNOWN = 0
    INITIATOR = 1
    RESPONDER = 2


class OwnerSource(IntEnum):
    """How the owner of an end was found."""

    UNKNOWN = 0
    SOCKET_CALL = 1
    LISTENER = 2
    DESCRIPTOR = 3
    ADDRESS = 4  # of another host: who has the address
    CGROUP = 5  # no process: the cgroup that the socket was made in
    SHARED = 6  # one of several processes that take turns at using the socket


#: Added to an OwnerSource of a record. No runtime confirms the container of that owner; the path of
#: its executable is only what the process was told, and may have overwritten.
UNCONFIRMED, UNCONFIRMED_PATH = 16, 32


class Mark(IntFlag):
    """What is special about a row of an end."""

    CLOSED = 1  # it is the last one
    PREEXISTING = 2  # the end is older than the probe
    ESTIMATED = 4  # a part of the counters is an estimate
    BY_TUPLE = 8  # of TCP, and its initial sequence numbers cannot be known
    GROUP = 16  # of UDP, and gets copies of what is sent to many: multicast, broadcast


class EndReason(IntEnum):
    """IANA flowEndReason (136)."""

    IDLE_TIMEOUT = 1
    ACTIVE_TIMEOUT = 2
    END_OF_FLOW = 3
    FORCED_END = 4
    LACK_OF_RESOURCES = 5


class EventKind(IntEnum):
    """What happened to an end, or to a container."""

    CONNECT = 1
    CONNECT_FAILED = 2
    ACCEPT = 3
    CLOSE = 4
    RETRANSMIT = 5
    SEND = 6  # the first datagram of a UDP flow, of each way
    RECV = 7
    CONTAINER_START = 8
    CONTAINER_STOP = 9
