"""Two records of a flow, one for each direction, become one Biflow (RFC 5103).

The forward direction is that of the flow's initiator. Where nobody knows who began, either one is,
and biflow_direction is 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probe.flow.codes import Role
from probe.flow.columns import (
    BIFLOW_DTYPE,
    COLUMNS,
    RECORD_DTYPE,
    In,
    Merge,
    Of,
    select,
)
from probe.flow.rows import Rows

_REVERSIBLE = tuple(column for column in COLUMNS if column.has_reverse)
#: What a direction tells of itself, its counters and gauges, and its times.
_TIMES = tuple(c.name for c in _REVERSIBLE if c.merge in (Merge.LEAST, Merge.GREATEST))
_TOLD = tuple(c.name for c in _REVERSIBLE if c.name not in _TIMES)
#: Columns that change places when a record is turned round.
_SIDES = tuple(column.record_names for column in select(In.RECORD, Of.END, Of.BOTH_ENDS))
#: What rows say of an end, which both records know where its namespace is told.
_OF_ROWS = tuple(column.record_names for column in select(In.METERED, Of.END))
#: (its names, the column that tells whether it is known, if not its own) of what is found later.
_FOUND = tuple(
    (column.record_names, column.known_by)
    for column in select(In.RECORD, Of.END, merge=Merge.KNOWN)
    if column.record_names not in _OF_ROWS
)
#: Of both directions, if of either.
_UNITED = tuple(column.name for column in select(In.RECORD, Of.FLOW, merge=Merge.UNION))


def pair_directions(records: Rows) -> Rows:
    """Returns a row of BIFLOW_DTYPE for each flow of ``records`` (RECORD_DTYPE), by flow_id.

    All records of a moment belong in one call, since what comes in two calls is not paired.
    """
    answers = records["biflow_direction"] == Role.RESPONDER
    order = np.lexsort((answers, records["flow_id"]))
    first, second = _pairs(records["flow_id"][order], records["biflow_direction"][order])
    forward, reverse = order[first], order[second]
    biflows: Rows = np.zeros(len(first), BIFLOW_DTYPE)
    # A Biflow begins with a whole record, which is copied in one piece.
    whole = biflows.view(_halves())["forward"]
    whole[:] = records.take(forward).view(f"V{RECORD_DTYPE.itemsize}")
    _add_reverse(biflows, np.flatnonzero(second != first), records, reverse)
    alone = second == first
    lone_answer = alone & (biflows["biflow_direction"] == Role.RESPONDER)
    _turn_round(biflows, np.flatnonzero(lone_answer))
    lone = np.flatnonzero(alone)
    for name in _TIMES:
        biflows[f"reverse_{name}"][lone] = biflows[name][lone]
    return biflows


def _halves() -> np.dtype[np.void]:
    rest = BIFLOW_DTYPE.itemsize - RECORD_DTYPE.itemsize
    return np.dtype([("forward", f"V{RECORD_DTYPE.itemsize}"), ("reverse", f"V{rest}")])


def _pairs(
    flow: NDArray[np.uint64], direction: NDArray[np.uint8]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Returns the places of both directions; the same place twice for a record that is alone."""
    count = len(flow)
    joins = np.zeros(count, bool)  # with the record behind it
    if count > 1:
        opposite = (direction[:-1] != direction[1:]) | (direction[:-1] == 0)
        joins[:-1] = (flow[:-1] == flow[1:]) & opposite
    # Of three and more in a row every other one begins a pair.
    place = np.arange(count)
    run = np.maximum.accumulate(np.where(joins, -1, place)) if count else place
    joins &= (place - run) % 2 == 1
    taken = np.zeros(count, bool)
    taken[1:] = joins[:-1]
    first = np.flatnonzero(~taken)
    return first, first + joins[first]


def _add_reverse(
    biflows: Rows, paired: NDArray[np.intp], records: Rows, reverse: NDArray[np.intp]
) -> None:
    """Add what the other direction tells of itself, and what only its record knows of the ends."""
    others = records.take(reverse[paired])
    mine = biflows.take(paired)
    for name in (*_TOLD, *_TIMES):
        mine[f"reverse_{name}"] = others[name]
    for side, netns in enumerate(("source_netns", "destination_netns")):
        missing = mine[netns] == 0
        for names in _OF_ROWS:
            _fill(mine[names[side]], others[names[1 - side]], missing)
    for names, key in _FOUND:
        for name, opposite in (names, names[::-1]):
            missing = (mine[key or name] == 0) & (others[key or opposite] != 0)
            _fill(mine[name], others[opposite], missing)
    for name in _UNITED:
        mine[name] |= others[name]
    biflows[paired] = mine


def _fill(column: NDArray[np.void], others: NDArray[np.void], where: NDArray[np.bool_]) -> None:
    column[where] = others[where]


def _turn_round(biflows: Rows, rows: NDArray[np.intp]) -> None:
    """Turn lone records of responders round. The initiator, which sent nothing, is the source."""
    if not len(rows):
        return
    turned = biflows.take(rows)
    before = turned.copy()
    for name, opposite in _SIDES:
        turned[name], turned[opposite] = before[opposite], before[name]
    for name in _TOLD:
        turned[f"reverse_{name}"], turned[name] = before[name], 0
    turned["biflow_direction"] = Role.INITIATOR
    # 1 (egress) where the source is an end on this host; only such an end has a namespace.
    turned["flow_direction"] = turned["source_netns"] != 0
    biflows[rows] = turned
