"""Decides which connection ends when there are too many.

Strangers that open connections must not be able to shut out exporters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from probe.collector.connection import Connection

#: The most connections of one listener, and of one address.
MAX_CONNECTIONS, MAX_PER_HOST = 512, 256
#: A connection without a whole message after so many seconds is closed.
FIRST_MESSAGE_S = 30.0


def find_victim(connections: Collection[Connection], host: str) -> Connection | None:
    """Returns the connection to close for a new one from ``host``, or None to refuse the new one.

    It is the oldest one without a message, of the address that has most connections. If all have
    sent messages, it is from the address with the most connections. That address must have at least
    two more than ``host``. An address at its own limit can only replace its own silent ones.
    """
    per_host = Counter(one.peer[0] for one in connections)
    if per_host[host] >= MAX_PER_HOST:
        return _oldest([one for one in connections if one.peer[0] == host and not one.is_proven])
    silent = [one for one in connections if not one.is_proven]
    most = max((per_host[one.peer[0]] for one in silent), default=0)
    if silent:
        return _oldest([one for one in silent if per_host[one.peer[0]] == most])
    greediest, count = per_host.most_common(1)[0]
    if count <= per_host[host] + 1:
        return None
    return _oldest([one for one in connections if one.peer[0] == greediest])


def is_full(connections: Collection[Connection], host: str) -> bool:
    """Returns True if a new connection from ``host`` needs the place of another one."""
    if len(connections) >= MAX_CONNECTIONS:
        return True
    return sum(one.peer[0] == host for one in connections) >= MAX_PER_HOST


def _oldest(some: Collection[Connection]) -> Connection | None:
    """Returns the connection that has been silent longest, or None."""
    return min(some, key=lambda one: one.heard_s, default=None)
