"""Who may keep a connection when there are too many: strangers must not shut out exporters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from probe.collector.connection import Connection

#: Connections of one listener, and of one address.
MAX_CONNECTIONS, MAX_PER_HOST = 512, 256
#: A connection that has brought no whole message by then is closed.
FIRST_MESSAGE_S = 30.0


def find_victim(connections: Collection[Connection], host: str) -> Connection | None:
    """Whom to close for a newcomer from ``host``; None: the newcomer is refused.

    First it is who never sent a message: of the address with most connections the oldest. When all
    have sent some, an address may be asked for one that has more than the newcomer's.
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
    """Whether a newcomer from ``host`` needs somebody else's place."""
    if len(connections) >= MAX_CONNECTIONS:
        return True
    return sum(one.peer[0] == host for one in connections) >= MAX_PER_HOST


def _oldest(some: Collection[Connection]) -> Connection | None:
    """Who has been silent longest."""
    return min(some, key=lambda one: one.heard_s, default=None)
