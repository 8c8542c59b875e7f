"""The checks by name, and the walk of an agent that they look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from tests.support.snmp.manager import Disorder, Manager
from tests.support.snmp.wire import (
    COUNTER32,
    COUNTER64,
    GAUGE32,
    INTEGER,
    OCTETS,
    TIME_TICKS,
    Malformed,
    Oid,
    Varbind,
    unsigned,
)

MIB2: Oid = (1, 3, 6, 1, 2, 1)
SYSTEM, INTERFACES, SNMP, IF_MIB = (*MIB2, 1), (*MIB2, 2), (*MIB2, 11), (*MIB2, 31)
IF_ENTRY, IF_X_ENTRY = (*INTERFACES, 2, 1), (*IF_MIB, 1, 1, 1)
IF_NUMBER, UPTIME = (*INTERFACES, 1, 0), (*SYSTEM, 3, 0)
TABLE_CHANGE, BAD_COMMUNITIES = (*IF_MIB, 1, 5, 0), (*SNMP, 4, 0)
ROOTS = SYSTEM, INTERFACES, SNMP, IF_MIB
#: Types of the columns of ifTable and ifXTable that are not deprecated.
IF_TYPES = {
    1: INTEGER, 2: OCTETS, 3: INTEGER, 4: INTEGER, 5: GAUGE32, 6: OCTETS, 7: INTEGER, 8: INTEGER,
    9: TIME_TICKS, **dict.fromkeys((10, 11, 13, 14, 15, 16, 17, 19, 20), COUNTER32),
}  # fmt: skip
IF_X_TYPES = {
    1: OCTETS, **dict.fromkeys(range(2, 6), COUNTER32), **dict.fromkeys(range(6, 14), COUNTER64),
    14: INTEGER, 15: GAUGE32, 16: INTEGER, 17: INTEGER, 18: OCTETS, 19: TIME_TICKS,
}  # fmt: skip
Rows = dict[int, bytes]


@dataclass
class Seen:
    """The result of one walk of the agent."""

    manager: Manager

    @cached_property
    def everything(self) -> list[Varbind]:
        return [one for root in ROOTS for one in self.manager.walk(root)]

    @cached_property
    def values(self) -> dict[Oid, tuple[int, bytes]]:
        return {name: (tag, value) for name, tag, value in self.everything}

    @cached_property
    def indices(self) -> list[int]:
        return sorted(self.column(IF_ENTRY, 1))

    def column(self, entry: Oid, number: int) -> Rows:
        start = (*entry, number)
        return {
            name[-1]: value
            for name, (_, value) in self.values.items()
            if name[:-1] == start
        }  # fmt: skip

    def uptime(self) -> int:
        return unsigned(self.manager.get(UPTIME)[0][2])


Check = Callable[[Seen], object]
CHECKS: dict[str, Check] = {}


def check(name: str) -> Callable[[Check], Check]:
    """Registers a check: a function that returns False or raises if a rule is broken."""

    def add(function: Check) -> Check:
        CHECKS[name] = function
        return function

    return add


def broken(manager: Manager) -> list[str]:
    """Returns the names of the rules that the agent breaks."""
    seen = Seen(manager)
    return [name for name in CHECKS if not _holds(CHECKS[name], seen)]


def _holds(function: Check, seen: Seen) -> bool:
    try:
        return bool(function(seen))
    except (Disorder, Malformed, KeyError, IndexError, ValueError):
        return False
