"""Tests which sequence numbers a Netlink socket takes from its peer in eBPF's rows."""

from __future__ import annotations

from typing import Any

import pytest

from probe.flow.codes import Mark
from probe.sources.merged import Claims
from tests.unit.test_cache import batch, end, isn, other

LOOPBACK = {"local_address": "127.0.0.1", "remote_address": "127.0.0.1"}


@pytest.mark.parametrize(
    ("place", "netns", "is_peer"),
    [(LOOPBACK, 5, True), (LOOPBACK, 6, False), ({}, 6, True)],
    ids=["its loopback", "the loopback of another namespace", "another namespace"],
)
def test_the_peer_is_where_the_addresses_say(
    place: dict[str, Any], netns: int, is_peer: bool
) -> None:
    mine = batch(end(1, cookie=1, netns=5, mark=Mark.BY_TUPLE, **place)).rows
    theirs = batch(other(2, cookie=2, netns=netns, **isn(9, 7), **place)).rows
    merged = Claims().merge(mine, theirs, is_read=True)
    (row,) = merged[merged["cookie"] == 1]
    assert (int(row["isn_local"]), int(row["isn_remote"])) == ((7, 9) if is_peer else (0, 0))
    assert bool(row["mark"] & Mark.BY_TUPLE) != is_peer
