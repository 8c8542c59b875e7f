"""Tests RecentlySeen: what is new, what is forgotten first, and that it stays bounded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probe.flow.recently_seen import RecentlySeen


def keys(first: int, count: int) -> NDArray[np.uint64]:
    return np.arange(first, first + count, dtype=np.uint64)


def test_each_key_is_new_once() -> None:
    seen = RecentlySeen(generation=100)
    assert seen.note(np.concatenate([keys(1, 10), keys(1, 10)])) == 10
    assert seen.note(keys(5, 10)) == 4
    seen.forget(np.concatenate([keys(1, 3), keys(1, 3), keys(500, 3)]))  # some are unknown
    assert len(seen) == 11
    assert seen.note(keys(1, 10)) == 3


def test_what_is_still_seen_outlives_what_is_not() -> None:
    seen = RecentlySeen(generation=100)
    busy, seen_once = keys(1, 20), 0
    for turn in range(50):
        seen_once += seen.note(busy) + seen.note(keys(1000 + 40 * turn, 40))
        assert len(seen) <= 200
    assert seen_once == 20 + 50 * 40  # no busy key was counted twice
    assert seen.forgotten > 0


def test_more_keys_at_once_than_are_remembered() -> None:
    seen = RecentlySeen(generation=100)
    assert seen.note(keys(1, 1000)) == 1000
    assert (len(seen), seen.forgotten) == (200, 800)
    seen.forget(keys(1, 1000))
    assert len(seen) == 0


def test_serials_of_a_generation_never_run_over() -> None:
    seen = RecentlySeen(generation=100)
    seen._serial = 2**30 + 1  # as after a billion keys
    assert seen.note(keys(1, 50)) == 50
    assert seen._serial == 50
    assert seen.note(keys(1, 50)) == 0
