"""Checks the tables (RFC 2863) and walks through them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.snmp.checks import (
    IF_ENTRY,
    IF_NUMBER,
    IF_TYPES,
    IF_X_ENTRY,
    IF_X_TYPES,
    ROOTS,
    TABLE_CHANGE,
    Seen,
    check,
)
from tests.support.snmp.wire import BULK, TIME_TICKS, Oid, unsigned

#: ifInUnknownProtos and ifLinkUpDownTrapEnable, which an interface may lack.
_OPTIONAL = {(IF_ENTRY, 15), (IF_X_ENTRY, 14)}
_MOST = 2**32 - 1


# --- walks ----------------------------------------------------------------------------------------


@check("a GETNEXT walk goes forward")
def _(seen: Seen) -> object:
    return len(seen.everything) > len(IF_TYPES)


@check("GETBULK shows what GETNEXT shows")
def _(seen: Seen) -> object:
    due = {name for name, _, _ in seen.everything}
    return all(
        {name for root in ROOTS for name, _, _ in seen.manager.walk(root, BULK, repetitions)} == due
        for repetitions in (1, 7, 50)
    )


# --- tables ---------------------------------------------------------------------------------------


@check("ifIndex is the index of its row")
def _(seen: Seen) -> object:
    found = seen.column(IF_ENTRY, 1)
    return found and all(unsigned(value) == index for index, value in found.items())


@check("ifNumber is the number of rows")
def _(seen: Seen) -> object:
    return unsigned(seen.values[IF_NUMBER][1]) == len(seen.indices)


@check("every column has every row")
def _(seen: Seen) -> object:
    return all(
        sorted(found) == seen.indices or (not found and (entry, number) in _OPTIONAL)
        for entry, number, _ in _columns()
        for found in [seen.column(entry, number)]
    )


@check("every column has its type")
def _(seen: Seen) -> object:
    return all(
        seen.values[(*entry, number, index)][0] == kind
        for entry, number, kind in _columns()
        for index in seen.column(entry, number)
    )


def _columns() -> Iterator[tuple[Oid, int, int]]:
    for entry, kinds in ((IF_ENTRY, IF_TYPES), (IF_X_ENTRY, IF_X_TYPES)):
        for number, kind in kinds.items():
            yield entry, number, kind


@check("ifName is there and unique")
def _(seen: Seen) -> object:
    names = list(seen.column(IF_X_ENTRY, 1).values())
    return all(names) and len(set(names)) == len(names)


@check("DisplayStrings have at most 255 octets")
def _(seen: Seen) -> object:
    texts = [*seen.column(IF_ENTRY, 2).values(), *seen.column(IF_X_ENTRY, 1).values()]
    return all(len(text) <= 255 for text in texts)


@check("ifAlias has at most 64 octets of whole characters")
def _(seen: Seen) -> object:
    found = seen.column(IF_X_ENTRY, 18).values()
    return all(len(text) <= 64 and text.decode() is not None for text in found)


@check("ifPhysAddress has 6 octets or none")
def _(seen: Seen) -> object:
    return all(len(address) in (0, 6) for address in seen.column(IF_ENTRY, 6).values())


@check("states have values that are named")
def _(seen: Seen) -> object:
    wanted = {7: range(1, 4), 8: range(1, 8)}
    return all(
        unsigned(value) in wanted[number]
        for number in wanted
        for value in seen.column(IF_ENTRY, number).values()
    )


@check("TruthValues are 1 or 2")
def _(seen: Seen) -> object:
    return all(
        unsigned(value) in (1, 2)
        for number in (16, 17)
        for value in seen.column(IF_X_ENTRY, number).values()
    )


@check("ifSpeed is ifHighSpeed, or its own maximum")
def _(seen: Seen) -> object:
    high, low = seen.column(IF_X_ENTRY, 15), seen.column(IF_ENTRY, 5)
    for index in seen.indices:
        octets_s, rounded = unsigned(low[index]), unsigned(high[index]) * 1_000_000
        is_same = octets_s == _MOST if rounded > _MOST else abs(octets_s - rounded) <= 500_000
        if not is_same:
            return False
    return True


@check("Counter32 is the lower half of Counter64")
def _(seen: Seen) -> object:
    pairs = ((10, 6), (16, 10), (11, 7), (17, 11))
    for index in seen.indices[:50]:
        names = [
            (*entry, number, index)
            for low, high in pairs
            for entry, number in ((IF_ENTRY, low), (IF_X_ENTRY, high))
        ]
        values = [unsigned(value) for _, _, value in seen.manager.get(*names)]
        if values[::2] != [value % 2**32 for value in values[1::2]]:
            return False
    return True


# --- times ----------------------------------------------------------------------------------------


@check("sysUpTime runs in hundredths of a second")
def _(seen: Seen) -> object:
    """Checks that time advanced by at least answer to question, and at most question to answer."""
    clock = seen.manager.clock
    outer = clock()
    first, inner = seen.uptime(), clock()
    seen.manager.pause(1.1)
    least = (clock() - inner) * 100
    ticks = seen.uptime() - first
    return least - 10 <= ticks <= (clock() - outer) * 100 + 10


@check("no change is later than sysUpTime")
def _(seen: Seen) -> object:
    times = [*seen.column(IF_ENTRY, 9).values(), *seen.column(IF_X_ENTRY, 19).values()]
    latest = max(map(unsigned, [*times, seen.values[TABLE_CHANGE][1]]))
    return latest <= seen.uptime()


@check("ifTableLastChange is a time")
def _(seen: Seen) -> object:
    return seen.values[TABLE_CHANGE][0] == TIME_TICKS
