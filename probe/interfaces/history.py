"""Keeps since when an interface has been the same device, and when its status last changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from probe.netlink.rtnetlink import Link

_IFF_UP = 0x1


@dataclass(slots=True)
class _Times:
    since_s: float
    changed_s: float


class InterfaceHistory:
    """Keeps Unix times of the interfaces that ``note`` received."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._times: dict[int, _Times] = {}

    def note(self, before: Link | None, now: Link) -> None:
        """Notes an interface; ``before`` is what had its index until now.

        ``before`` is None if nothing had the index, or if an event reported that it is gone.
        """
        times = self._times.get(now.index)
        if times is None or before is None or not is_same(before, now):
            now_s = self._clock()
            self._times[now.index] = _Times(now_s, now_s)
        elif _status(before) != _status(now):
            times.changed_s = self._clock()

    def end(self, index: int) -> None:
        """Notes that the interface is gone: the next one with this index is another."""
        self._times.pop(index, None)

    def keep(self, interfaces: Mapping[int, Link]) -> None:
        """Forgets all interfaces but these."""
        for index in [index for index in self._times if index not in interfaces]:
            del self._times[index]

    def since_s(self, index: int) -> float:
        """Returns when this device was first seen; its counters have run on since then."""
        return self._times[index].since_s if index in self._times else 0.0

    def changed_s(self, index: int) -> float:
        return self._times[index].changed_s if index in self._times else 0.0


def is_same(one: Link, other: Link) -> bool:
    """Returns True if two interfaces with one index may be the same device.

    A device keeps its kind, and does not change both its name and its address at once.
    """
    if one.kind != other.kind or one.type != other.type:
        return False
    return one.name == other.name or (bool(one.address) and one.address == other.address)


def _status(interface: Link) -> tuple[int, int]:
    return interface.state, interface.flags & _IFF_UP
