"""Tests that every output separates losses from what came late or with less detail."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from probe.config import build
from probe.flow.batch import FlowBatch
from probe.flow.cache import FlowCache
from probe.flow.codes import Mark
from probe.flow.columns import ROW_DTYPE
from probe.flow.rows import Rows
from probe.run.causes import NOTICES, split
from probe.run.loop import Loop
from probe.run.summary import summarize
from probe.run.wiring import open_probe
from probe.stop import StopRequest
from tests.support.fake_collector import fake_source

ROOT = Path(__file__).resolve().parents[2]
S = 10**9


def test_every_notice_is_a_cause_that_is_counted() -> None:
    """Each notice names a counter that exists.

    A name without a counter would turn its cause into a loss.
    """
    sources = [ROOT / "bpf" / "flow.h", *(ROOT / "probe").rglob("*.py")]
    texts = [path.read_text() for path in sources if path.name != "causes.py"]
    for cause in NOTICES:
        assert any(re.search(rf"\b{cause}\b", text) for text in texts), cause
    assert split({"snapshot_full": 3, "flow_ring_full": 4, "unheard_of": 5}) == (
        {"flow_ring_full": 4, "unheard_of": 5},
        {"snapshot_full": 3},
    )


def test_summary_and_metering_tell_them_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counts = {"flow_ring_full": 4, "snapshot_full": 3, "udp_peers_full": 0}
    collector = fake_source(monkeypatch)
    monkeypatch.setattr(collector, "losses", lambda: counts)
    config = build({"interval": 0.05, "docker": False})
    probe = open_probe(config, [f"json://{tmp_path}/flows"])
    stop = StopRequest()
    for _ in Loop(probe, stop).steps(60):
        stop.request()
    probe.close()
    figures = probe.figures()
    losses, notices = figures.losses, figures.notices
    assert (losses["flow_ring_full"], losses["packets_after_end"]) == (4, 0)
    assert notices["snapshot_full"] == 3
    assert not losses.keys() & NOTICES.keys()
    *_, noticed, lost = summarize(figures)
    assert lost == "lost: flow_ring_full 4"
    assert noticed == "late, or with less detail, but not lost: snapshot_full 3"
    assert json.dumps([losses, notices])  # plain integers


def end(number: int, is_client: bool, mark: int = Mark.CLOSED) -> Rows:
    rows: Rows = np.zeros(1, ROW_DTYPE)
    rows["id"], rows["mark"], rows["ip_version"], rows["protocol"] = number, mark, 4, 6
    rows["isn_local"], rows["isn_remote"] = (7, 8) if is_client else (8, 7)
    rows["local_port"], rows["remote_port"] = (4000, 80) if is_client else (80, 4000)
    rows["tx_packets"], rows["rx_packets"] = 3, 2
    return rows


def test_packets_of_a_late_end_were_told_by_its_peer() -> None:
    cache = FlowCache()
    cache.observe(FlowBatch(end(1, True)), 10 * S)
    assert len(cache.expire(11 * S, 0)) == 2
    cache.observe(FlowBatch(end(2, False)), 12 * S)
    assert (cache.late_packets, cache.lost_packets) == (5, 0)


def test_what_an_end_sends_after_the_last_record_is_lost() -> None:
    cache = FlowCache()
    cache.observe(FlowBatch(np.concatenate([end(1, True), end(2, False, mark=0)])), 10 * S)
    assert len(cache.expire(11 * S, 0)) == 2
    cache.observe(FlowBatch(end(2, False)), 12 * S)
    assert (cache.late_packets, cache.lost_packets) == (5, 3)  # the peer reported the 2 received


def test_options_have_room_for_the_kernels_causes() -> None:
    declared = (ROOT / "bpf" / "flow.h").read_text().partition("struct losses {")[2]
    kernel = re.findall(r"__u64 (\w+);", declared)
    room = re.search(r"lossCause\[(\d+)\]", (ROOT / "templates" / "options.txt").read_text())
    assert room
    assert len(kernel) >= 6
    assert max(map(len, [*kernel, *NOTICES, "packets_after_end"])) <= int(room[1])
