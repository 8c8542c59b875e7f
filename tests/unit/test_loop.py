"""Tests how long the loop waits between snapshots, and what leaves in between."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from probe.config import build
from probe.flow.owner import ContainerNames
from probe.owners.runtime import KnownContainers
from probe.run.loop import Loop
from probe.run.wiring import open_probe
from probe.stop import StopRequest
from tests.support.fake_collector import FakeSource, fake_source


@pytest.mark.parametrize(
    ("cpu_s", "interval_s"), [(0.0, 1.0), (0.002, 1.0), (0.02, 2.0), (0.1, 3.0), (10.0, 3.0)]
)
def test_a_costly_snapshot_delays_the_next_one_within_bounds(
    monkeypatch: pytest.MonkeyPatch, cpu_s: float, interval_s: float
) -> None:
    collector = fake_source(monkeypatch)
    probe = open_probe(build({"docker": False}))
    collector.snapshot_cpu_ns = round(cpu_s * 1e9)
    collector.snapshot_ns = 10**11  # as on a busy machine
    assert probe.interval_s() == interval_s
    probe.close()


def test_an_interval_that_was_asked_for_is_not_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = fake_source(monkeypatch)
    probe = open_probe(build({"docker": False, "interval": 20}))
    collector.snapshot_cpu_ns = 10**9
    assert probe.interval_s() == 20
    probe.close()


class Runtime(KnownContainers):
    def patience_s(self, in_pod: bool = False) -> float:
        return 0.0  # records do not wait for names

    def close(self) -> None: ...


def test_flows_that_leave_between_ticks_have_the_names_of_that_moment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The name comes after the only tick and before the connections end."""
    docker, path, stop = Runtime(), tmp_path / "flows.json", StopRequest()
    monkeypatch.setattr("probe.owners.docker.open_docker", lambda _: docker)
    collector = fake_source(monkeypatch)
    probe = open_probe(build({"docker": False, "interval": 600}), [f"json://{path}"])

    def later() -> None:
        deadline = time.monotonic() + 60
        while not collector.reads and time.monotonic() < deadline:
            time.sleep(0.01)
        docker.add(FakeSource.CONTAINER, ContainerNames("web"))
        collector.ring()
        while not flows(path.read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        told.append(path.read_text())
        stop.request()

    told: list[str] = []
    thread = threading.Thread(target=later)
    thread.start()
    Loop(probe, stop).run(120)
    thread.join()
    probe.close()
    (text,) = told
    assert len(flows(text)) == collector.each_read
    assert all("'web'" in str(flow) for flow in flows(text))


def flows(text: str) -> list[dict[str, object]]:
    """Returns the flows of all whole lines."""
    whole = text[: text.rfind("\n") + 1].splitlines()
    found = [json.loads(line) for line in whole]
    return [one for one in found if one.get("EVENT_TYPE") == "FLOW"]
