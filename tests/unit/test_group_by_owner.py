"""Tests that records with the same owners are encoded together, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from probe.flow.rows import Rows
from probe.mapping.group_by_owner import group_by_owner
from tests.support.records import flow_records
from tests.unit.test_mapping import decoded, encoder_of

#: The strings stand before, between and behind the numbers.
TEMPLATES = (
    "full",
    "flowId octetDeltaCount SRC_PROC_NAME tcpState DST_PROC_NAME protocolIdentifier",
    "SRC_PROC_NAME flowId DST_PROC_NAME sourceTransportPort",
)


def frequent(count: int) -> Rows:
    """Returns records of three frequent keys, mixed with a few records of other keys."""
    records = flow_records(count)
    place = np.arange(count)
    records["source_owner"] = np.where(place % 50 == 7, 4, place % 3)
    records["destination_owner"] = np.where(place % 50 == 7, place % 5, 1 + place % 3)
    records["tcp_state"] = np.where(place % 50 == 7, place % 11, 7)
    return records


@pytest.mark.parametrize("text", TEMPLATES)
def test_a_record_is_the_same_in_a_group_and_alone(text: str) -> None:
    records = frequent(2000)
    together = decoded(encoder_of(text), records)
    few = [decoded(encoder_of(text), records[at : at + 100]) for at in range(0, 2000, 100)]
    assert together == [record for part in few for record in part]


def test_places_are_split_whole() -> None:
    keys = np.array([5] * 300 + [6] * 20 + [7] * 400 + [5] * 10)
    groups, others = group_by_owner(keys)
    assert sorted((int(keys[one[0]]), len(one)) for one in groups) == [(5, 310), (7, 400)]
    assert others.tolist() == list(range(300, 320))


def test_few_and_different_ones_are_left() -> None:
    for keys in (np.arange(5000), np.zeros(200, np.int64), np.zeros(0, np.int64)):
        groups, others = group_by_owner(keys)
        assert not groups
        assert others.tolist() == list(range(len(keys)))
