"""Bounds the answers to one address, so that forged requests cannot flood a victim.

A GetBulk of 80 octets can have an answer of 60 kB. A request with a forged source address sends
that answer to somebody else. So each source has a bucket of octets, which refills in ten seconds.
A bucket holds eight walks of the whole tree and a million octets more, which no poller needs.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

_LEAST_OCTETS = 1 << 20
_WALKS, _VARBIND_OCTETS = 8, 32
_REFILL_S = 10.0
_MOST_SOURCES = 4096


class Allowance:
    """Keeps the buckets of the latest 4096 sources; ``monotonic`` returns seconds."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._used: OrderedDict[str, tuple[float, float]] = OrderedDict()  # (octets, since)

    def take(self, address: str, octets: int, varbinds: int) -> bool:
        """Returns False if an answer of ``octets`` is more than ``address`` may have now.

        ``varbinds`` is the number of objects in the whole tree.
        """
        capacity = _LEAST_OCTETS + _WALKS * _VARBIND_OCTETS * varbinds
        source, now = _source(address), self._monotonic()
        used, since = self._used.pop(source, (0.0, now))
        used = max(0.0, used - (now - since) * capacity / _REFILL_S)
        is_allowed = used + octets <= capacity
        self._used[source] = (used + octets if is_allowed else used, now)
        if len(self._used) > _MOST_SOURCES:
            self._used.popitem(last=False)
        return is_allowed


def _source(address: str) -> str:
    """Returns the IPv4 address, or the /64 of an IPv6 address, which one host can have whole."""
    if ":" not in address:
        return address
    number = int(ipaddress.IPv6Address(address.partition("%")[0]))
    return f"{number >> 64:x}" if number >> 32 != 0xFFFF else str(number)
