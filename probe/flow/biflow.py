"""From two records of a flow, one per direction, to one Biflow (RFC 5103).

A Biflow has the direction of the flow's initiator for its forward one. Where nobody knows who
began, the forward direction is arbitrary, and biflow_direction is 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probe.flow.batch import RECORD_DTYPE, Role, Rows

#: A record of the forward direction, and the counters of the other one. Where only one direction
#: had packets, the times of the other equal its own: the Metering Process keeps the times of the
#: flow, not of each direction, and 0 would say 1970.
BIFLOW_DTYPE = np.dtype(
    [
        *RECORD_DTYPE.descr,
        ("reverse_first_ns", "i8"),
        ("reverse_last_ns", "i8"),
        ("reverse_octets", "u8"),
        ("reverse_packets", "u8"),
        ("reverse_pacing_rate", "u8"),
        ("reverse_delivery_rate", "u8"),
        ("reverse_unacknowledged", "u4"),
        ("reverse_congestion_window", "u4"),
        ("reverse_retransmitted", "u4"),
        ("reverse_lost", "u4"),
        ("reverse_tcp_flags", "u1"),
        ("reverse_dscp", "u1"),
        ("reverse_pad", "u1", 6),
    ]
)
#: What a direction tells of itself.
_GAUGES = ("unacknowledged", "congestion_window", "pacing_rate", "delivery_rate")
_COUNTERS = ("octets", "packets", "retransmitted", "lost", "tcp_flags", "dscp", *_GAUGES)
_TIMES = ("first_ns", "last_ns")
#: Columns that change places when a record is turned round.
_SIDES = (
    *(
        (f"source_{name}", f"destination_{name}")
        for name in ("address", "port", "owner", "owner_source", "netns", "netns_inode", "ifindex")
    ),
    ("nat_source_address", "nat_destination_address"),
    ("nat_source_port", "nat_destination_port"),
    ("ingress_interface", "egress_interface"),
)
_OWNERS = ("owner", "owner_source", "netns", "netns_inode", "ifindex")


def pair_directions(records: Rows) -> Rows:
    """One row of BIFLOW_DTYPE for each flow of ``records`` (RECORD_DTYPE), in order of flow_id.

    Give all records of a moment at once: what comes in two calls is not paired. Directions that
    follow each other with the same flow_id are a pair, the initiator's first.
    """
    answers = records["biflow_direction"] == Role.RESPONDER
    order = np.lexsort((answers, records["flow_id"]))
    first, second = _pairs(records["flow_id"][order], records["biflow_direction"][order])
    forward, reverse = order[first], order[second]
    biflows: Rows = np.zeros(len(first), BIFLOW_DTYPE)
    # As wide as RECORD_DTYPE, with the pad that a plain assignment by names would copy one by one.
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
    """Positions of forward and reverse; the same twice for a record that is alone."""
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
    """Counters of the other direction, and what only its record knows of the ends."""
    others = records.take(reverse[paired])
    mine = biflows.take(paired)
    for name in (*_COUNTERS, *_TIMES):
        mine[f"reverse_{name}"] = others[name]
    mine["estimated"] |= others["estimated"]
    for side, opposite in (("source", "destination"), ("destination", "source")):
        missing = mine[f"{side}_netns"] == 0
        for name in _OWNERS:
            _fill(mine[f"{side}_{name}"], others[f"{opposite}_{name}"], missing)
    for name, opposite in (
        ("ingress_interface", "egress_interface"),
        ("egress_interface", "ingress_interface"),
    ):
        _fill(mine[name], others[opposite], mine[name] == 0)
    _add_translation(mine, others)
    biflows[paired] = mine


def _add_translation(mine: Rows, others: Rows) -> None:
    missing = (mine["translated"] == 0) & (others["translated"] != 0)
    for name in ("address", "port"):
        _fill(mine[f"nat_source_{name}"], others[f"nat_destination_{name}"], missing)
        _fill(mine[f"nat_destination_{name}"], others[f"nat_source_{name}"], missing)
    _fill(mine["translated"], others["translated"], missing)


def _fill(column: NDArray[np.void], others: NDArray[np.void], where: NDArray[np.bool_]) -> None:
    column[where] = others[where]


def _turn_round(biflows: Rows, rows: NDArray[np.intp]) -> None:
    """Records of the responder: its initiator becomes the source and has sent nothing yet."""
    if not len(rows):
        return
    turned = biflows.take(rows)
    before = turned.copy()
    for name, opposite in _SIDES:
        turned[name], turned[opposite] = before[opposite], before[name]
    for name in _COUNTERS:
        turned[f"reverse_{name}"], turned[name] = before[name], 0
    turned["biflow_direction"] = Role.INITIATOR
    # 1 (egress) where the source is an end on this host; only such an end has a namespace.
    turned["flow_direction"] = turned["source_netns"] != 0
    biflows[rows] = turned
