"""Tests the end of a run: TCP collectors get 15 seconds to take what is left."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from probe.config import build
from probe.run.loop import Loop
from probe.run.probe import Probe
from probe.run.wiring import open_probe
from probe.stop import StopRequest
from tests.support.fake_collector import FakeSource, fake_source

_SLOW_S = 3.0  # much longer than a stop without waiting


class CollectorOfOctets:
    """Accepts one connection after ``accept`` is set; reads it to its end after ``read`` is set."""

    def __init__(self, port: int = 0, listens: bool = True) -> None:
        self.octets = 0
        self.read = threading.Event()
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        if listens:
            self.listen()

    def listen(self) -> None:
        self._socket.listen()
        self._thread.start()

    def close(self) -> None:
        self.read.set()
        self._thread.join(30)
        self._socket.close()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection, suppress(OSError):
            self.read.wait(60)
            while octets := connection.recv(1 << 20):
                self.octets += len(octets)


def run(patch: pytest.MonkeyPatch, url: str, at_stop: Callable[[], None]) -> tuple[Probe, float]:
    """Sends some megabytes to ``url`` and calls ``at_stop`` when the stop is requested.

    Returns the closed probe and the seconds that the stop took.
    """
    collector = fake_source(patch)
    collector.each_read = 4000
    probe = open_probe(build({"interval": 0.05, "docker": False}), [url])
    stop, began_s = StopRequest(), 0.0
    for _ in Loop(probe, stop).steps(60):
        if collector.reads >= 8 and not stop.received:
            began_s = time.monotonic()
            stop.request()
            threading.Thread(target=at_stop, daemon=True).start()
    probe.close()
    _check(probe, collector)
    return probe, time.monotonic() - began_s


def _check(probe: Probe, collector: FakeSource) -> None:
    (sink,) = probe.exporter.sinks
    assert sink.statistics.sent_flow_records == 2 * collector.made
    assert sink.statistics.dropped_records == 0


def test_a_collector_that_reads_nothing_for_seconds_gets_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peer = CollectorOfOctets()

    def slowly() -> None:
        time.sleep(_SLOW_S)
        peer.read.set()

    probe, _ = run(monkeypatch, f"ipfix+tcp://127.0.0.1:{peer.port}", slowly)
    peer.close()
    assert peer.octets == probe.exporter.sinks[0].statistics.sent_octets


def test_a_collector_that_is_away_at_the_stop_gets_all_when_it_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peer = CollectorOfOctets(listens=False)
    peer.read.set()

    def return_late() -> None:
        time.sleep(_SLOW_S)
        peer.listen()

    probe, _ = run(monkeypatch, f"ipfix+tcp://127.0.0.1:{peer.port}", return_late)
    peer.close()
    assert peer.octets == probe.exporter.sinks[0].statistics.sent_octets


def test_who_has_all_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = CollectorOfOctets()
    peer.read.set()
    _, took_s = run(monkeypatch, f"ipfix+tcp://127.0.0.1:{peer.port}", lambda: None)
    peer.close()
    assert took_s < 14


def test_a_collector_that_stays_away_costs_fifteen_seconds_and_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("probe.run.loop._FLUSH_S", 3.0)
    silent = CollectorOfOctets(listens=False)
    collector = fake_source(monkeypatch)
    config = build({"interval": 0.05, "docker": False})
    probe = open_probe(config, [f"ipfix+tcp://127.0.0.1:{silent.port}"])
    stop = StopRequest()
    for _ in Loop(probe, stop).steps(60):
        if collector.reads >= 4:
            stop.request()
    probe.close()
    (sink,) = probe.exporter.sinks
    assert sink.statistics.dropped_flow_records == 2 * collector.made
    assert "waiting up to" in caplog.text


def test_waiting_for_a_collector_costs_no_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop from another thread stays readable, and must not keep the loop busy."""
    monkeypatch.setattr("probe.run.loop._FLUSH_S", 3.0)
    silent = CollectorOfOctets(listens=False)
    collector = fake_source(monkeypatch)
    config = build({"interval": 0.05, "docker": False})
    probe = open_probe(config, [f"ipfix+tcp://127.0.0.1:{silent.port}"])
    stop, began_ns = StopRequest(), 0
    for _ in Loop(probe, stop).steps(60):
        if collector.reads >= 4 and not stop.received:
            stop.request()
            began_ns = time.thread_time_ns()
    used_ns = time.thread_time_ns() - began_ns
    probe.close()
    stop.close()
    assert used_ns < 1.5e9  # of 3 s; the records need some of it
