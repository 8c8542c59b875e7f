"""Tests that an error in one part of the probe ends only that part, and that losses are counted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probe.config import build
from probe.enrich.container_owners import ContainerOwners
from probe.enrich.enrichers import Enrichers
from probe.enrich.nat import Nat
from probe.enrich.remote_owners import RemoteOwners
from probe.errors import ConfigError, MeteringError
from probe.export.local import LocalSink
from probe.flow.owner import ContainerNames
from probe.flow.rows import Rows
from probe.guard import Guard
from probe.interfaces.names import InterfaceList
from probe.interfaces.table import InterfaceTable
from probe.owners.kubernetes.tenures import RemoteNames
from probe.owners.runtime import KnownContainers
from probe.run.loop import Loop
from probe.run.outlet import Outlet
from probe.run.probe import Probe
from probe.run.summary import summarize
from probe.run.wiring import open_probe
from probe.stop import StopRequest, StopSignals
from tests.support.fake_collector import FakeSource, fake_source
from tests.support.records import flow_records

_READS = 6  # the second one breaks a part
_PER_READ = 10  # records: 5 connections, 2 directions


class Kept(LocalSink):
    """A destination in this process that keeps what it gets."""

    def __init__(self, name: str = "kept") -> None:
        super().__init__(name)
        self.records = self.events = self.sockets = self.links = 0

    def send(self, records: Rows, now_s: float) -> None:
        self.records += len(records)

    def send_events(self, events: Rows, now_s: float) -> None:
        self.events += len(events)

    def send_sockets(self, sockets: Rows, now_s: float) -> None:
        self.sockets += 1

    def send_interfaces(self, links: object, now_s: float) -> None:
        self.links += 1

    def summary(self) -> str:
        return f"{self.records} records"


class Broken(RuntimeError):
    pass


def broken(*_: object, **__: object) -> Any:
    raise Broken("out of order")


class Run:
    """A probe with destinations, a fake source and a loop that reads ``_READS`` times."""

    def __init__(self, patch: pytest.MonkeyPatch, tmp_path: Path, **settings: object) -> None:
        self.path = tmp_path / "flows.json"
        self.patch = patch
        config = build({"interval": 0.05, "idle_timeout": 2, "docker": False, **settings})
        self.collector = fake_source(patch)
        self.config = config
        self.probe: Probe
        self.kept, self.second = Kept(), Kept("second")
        self.reads = _READS
        self.error: Exception | None = None

    def open(self, *destinations: str) -> Run:
        urls = destinations or (f"json://{self.path}", f"file://{self.path}.ipfix")
        self.probe = open_probe(self.config, urls, lambda _: [self.kept, self.second])
        return self

    def run(self, breaks: Callable[[], None] = lambda: None) -> Run:
        """Runs the loop and calls ``breaks`` after the second read."""
        stop = StopRequest()
        with pytest.MonkeyPatch.context():
            try:
                for _ in Loop(self.probe, stop).steps(60):
                    if self.collector.reads == 2:
                        breaks()
                    if self.collector.reads >= self.reads:
                        stop.request()
            except MeteringError as error:
                self.error = error
            self.losses = self.probe.figures().losses
            self.probe.close()
            stop.close()
        return self

    def summary(self) -> str:
        lines = summarize(self.probe.figures())
        return "\n".join(f"sockflow: {line}" for line in lines)

    def outlet(self, name: str) -> Outlet:
        (found,) = [one for one in self.probe.exporter.outlets if one.name.startswith(name)]
        return found

    def lines(self) -> int:
        """Returns the number of flows in the JSON file."""
        texts = self.path.read_text().splitlines()
        return sum(json.loads(text).get("EVENT_TYPE") == "FLOW" for text in texts)

    @property
    def flows(self) -> int:
        return self.collector.made

    @property
    def made(self) -> int:
        """Returns the number of records of all flows, one for each direction."""
        return 2 * self.collector.made


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    return Run(monkeypatch, tmp_path)


def test_without_a_fault_all_get_everything(run: Run) -> None:
    run.open().run()
    assert run.error is None
    assert run.made >= _READS * _PER_READ
    assert run.kept.records == run.second.records == run.made
    assert run.lines() == run.flows
    assert run.outlet("file:").statistics.sent_flow_records == run.made
    assert run.summary().endswith("lost: nothing")


_METHODS = ["send", "pump", "finish", "local_address", "flush", "close"]
_EVENT_METHODS = ["send_events", "send_interfaces"]
#: Methods of each kind of destination that the loop calls in such a run.
_CALLED = [
    *(("file:", name) for name in (*_METHODS, "owners_in_use", "session.messages",
                                   "sender.enqueue", "sender.pump")),
    *(("json:", name) for name in (*_METHODS, *_EVENT_METHODS)),
    *(("second", name) for name in (*_METHODS, *_EVENT_METHODS)),
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "member"), _CALLED)
def test_a_destination_that_raises_ends_alone(
    run: Run, scheme: str, member: str, caplog: pytest.LogCaptureFixture
) -> None:
    run.open()
    outlet = run.outlet(scheme)
    holder: Any = outlet.sink
    *path, name = member.split(".")
    for step in path:
        holder = getattr(holder, step)

    def breaks() -> None:
        run.patch.setattr(holder, name, broken)
        run.probe.sweep_at = run.probe.feed._links_at = 0.0

    run.run(breaks)
    assert run.error is None
    assert not outlet.part.is_on
    others = [one for one in run.probe.exporter.outlets if one is not outlet]
    assert all(one.part.is_on for one in others)
    assert run.kept.records == run.made
    if scheme != "json:":
        assert run.lines() == run.flows
    if scheme != "file:":
        assert run.outlet("file:").statistics.sent_flow_records == run.made
    if scheme != "second":
        assert run.second.records == run.made
    errors = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    assert len(errors) == 1, errors
    assert errors[0].startswith(outlet.part.name)
    assert "Broken: out of order" in errors[0]
    assert "ended by Broken: out of order" in run.summary()
    sent = outlet.statistics
    arrived = run.second.records if scheme == "second" else sent.sent_flow_records
    assert arrived + sent.dropped_flow_records == (run.flows if scheme == "json:" else run.made)
    assert f"records_dropped {sent.dropped_records}" in run.summary() or not sent.dropped_records


@pytest.mark.parametrize("name", ["is_down", "is_reliable", "backlog"])
def test_a_destination_that_cannot_say_how_it_is_counts_as_down(name: str) -> None:
    sink = Kept()
    sink.__class__ = type("Broken", (Kept,), {name: property(broken, lambda *_: None)})
    outlet = Outlet(sink, Guard().part("destination"))
    answers = {"is_down": True, "is_reliable": False, "backlog": 0}
    assert getattr(outlet, name) == answers[name]
    assert (outlet.is_down, outlet.is_reliable, outlet.backlog) == (True, False, 0)
    assert outlet.part.error == "Broken: out of order"
    outlet.send(flow_records(3), 0.0)
    assert outlet.statistics.dropped_flow_records == 3


def test_of_destinations_that_share_flows_the_others_take_its_part(run: Run) -> None:
    urls = [f"file://{run.path}.{number}?share=hash" for number in range(3)]
    run.open(*urls)
    first, *others = run.probe.exporter.outlets[:3]
    run.run(lambda: run.patch.setattr(first.sink, "send", broken))
    assert not first.part.is_on
    sent = sum(one.statistics.sent_flow_records for one in (first, *others))
    assert sent + first.statistics.dropped_flow_records == run.made
    assert first.statistics.dropped_flow_records <= _PER_READ  # the records of one moment


def test_a_share_that_cannot_be_dealt_ends_those_who_share(run: Run) -> None:
    urls = [f"file://{run.path}.{number}?share=hash" for number in range(2)]
    run.patch.setattr("probe.export.share.ShareGroup.split", broken)
    run.open(*urls).run()
    assert run.error is None
    assert run.kept.records == run.made
    lost = sum(one.statistics.dropped_flow_records for one in run.probe.exporter.outlets)
    assert lost == run.made


def test_the_records_of_a_lot_that_breaks_are_counted(run: Run) -> None:
    """They have left the queue of records and have not reached the queue of messages."""
    run.open(f"file://{run.path}")
    stream: Any = run.outlet("file:").sink
    run.run(lambda: run.patch.setattr(stream.session, "messages", broken))
    sent = stream.statistics
    assert sent.dropped_flow_records > 0
    assert sent.sent_flow_records + sent.dropped_flow_records == run.made


class Runtime(KnownContainers):
    def patience_s(self, in_pod: bool = False) -> float:
        return 0.2

    def close(self) -> None: ...


@pytest.mark.parametrize("member", ["find", "take_changed", "patience_s", "close"])
def test_a_runtime_that_raises_ends_alone(run: Run, member: str) -> None:
    """Its names are missing, but flows still leave and the other runtime still gives names."""
    docker, kubernetes = Runtime(), Runtime()
    run.patch.setattr("probe.owners.docker.open_docker", lambda _: docker)
    run.patch.setattr("probe.owners.kubernetes.open_kubernetes", lambda _: kubernetes)
    run.patch.setattr(docker, member, broken)
    kubernetes.add(FakeSource.CONTAINER, ContainerNames("web"))
    run.open().run()
    assert run.error is None
    assert run.kept.records == run.made == 2 * run.lines()
    failed = [part.name for part in run.probe.guard.failed]
    assert failed == ([] if member == "close" else ["Docker"])
    owners = run.probe.owners
    assert {owners[index].container.name for index in range(1, len(owners))} >= {"web"}


def _break_interfaces(run: Run) -> None:
    run.patch.setattr(run.probe.interfaces, "refresh", broken)


def _break_link_counters(run: Run) -> None:
    run.patch.setattr(InterfaceTable, "read", broken)
    run.probe.feed._links_at = 0.0


def _break_veths(run: Run) -> None:
    run.patch.setattr(run.probe.interfaces.veths, "apply", broken)


def _break_nat(run: Run) -> None:
    assert run.probe.nat
    run.patch.setattr(run.probe.nat, "apply", broken)


def _break_remote(run: Run) -> None:
    remote = RemoteOwners(RemoteNames(), run.probe.owners)
    run.patch.setattr(remote, "apply", broken)
    run.probe.enrichers = Enrichers(((run.probe.parts.remote, remote),))


def _break_events(run: Run) -> None:
    run.patch.setattr(run.collector, "read_events", broken)


def _break_sockets(run: Run) -> None:
    run.patch.setattr(run.probe.feed._sockets, "changes", broken)
    run.probe.feed._sockets_at = 0.0


def _break_counters(run: Run) -> None:
    run.patch.setattr(run.probe.feed, "_read_links", broken)
    run.probe.feed._links_at = 0.0


def _break_names(run: Run) -> None:
    run.patch.setattr(ContainerOwners, "refresh", broken)


def _break_nameless(run: Run) -> None:
    run.patch.setattr(ContainerOwners, "nameless", broken)


def _break_snmp(run: Run) -> None:
    run.probe.snmp = type("Agent", (), {"tell": broken, "deaths": 0})()


def _break_traffic(run: Run) -> None:
    run.probe.traffic = type("Traffic", (), {"count": broken})()


_PARTS = {
    "interfaces": _break_interfaces,
    "containers behind interfaces": _break_veths,
    "NAT": _break_nat,
    "names of remote ends": _break_remote,
    "events": _break_events,
    "open sockets and counters of interfaces": _break_sockets,
    "names of containers": _break_names,
    "SNMP": _break_snmp,
    "Prometheus": _break_traffic,
}
_ALSO = {"interfaces": _break_link_counters, "names of containers": _break_nameless,
         "open sockets and counters of interfaces": _break_counters}  # fmt: skip


@pytest.mark.parametrize(("name", "breaks"), [*_PARTS.items(), *_ALSO.items()])
def test_an_enricher_a_poller_or_a_feed_that_raises_ends_alone(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    breaks: Callable[[Run], None],
) -> None:
    run = Run(monkeypatch, tmp_path, events=True).open()
    run.run(lambda: breaks(run))
    assert run.error is None
    assert [part.name for part in run.probe.guard.failed] == [name]
    assert run.kept.records == run.second.records == run.made == 2 * run.lines()
    assert run.kept.events > 0
    errors = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    assert len(errors) == 1
    assert errors[0].startswith(name)
    assert f"{name} ended by Broken: out of order" in run.summary()
    assert run.summary().endswith("lost: nothing")


def test_what_the_probe_says_of_itself_is_no_fault_of_a_destination(run: Run) -> None:
    run.patch.setattr("probe.export.self_report.SelfReport.read", broken)
    run.open().run()
    assert [part.name for part in run.probe.guard.failed] == ["the probe's report of itself"]
    assert run.outlet("file:").statistics.sent_flow_records == run.made


def test_a_scrape_that_breaks_does_not_end_the_probe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Run(monkeypatch, tmp_path, prometheus="127.0.0.1:0").open()
    assert run.probe.metrics
    port = run.probe.metrics.port
    run.patch.setattr("probe.run.wiring.take_snapshot", broken)
    run.reads = 40

    def scrape() -> None:
        def ask() -> None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=1)

        threading.Thread(target=ask, daemon=True).start()
        time.sleep(0.3)

    run.run(scrape)
    assert run.error is None
    assert [part.name for part in run.probe.guard.failed] == ["Prometheus"]
    assert run.kept.records == run.made == 2 * run.lines()


@pytest.mark.parametrize("member", ["read", "sweep_owners"])
def test_a_collector_that_raises_ends_metering_after_what_it_gave_was_sent(
    run: Run, member: str
) -> None:
    run.open()

    def breaks() -> None:
        run.patch.setattr(run.collector, member, broken)
        run.probe.sweep_at = 0.0

    run.run(breaks)
    assert isinstance(run.error, MeteringError)
    assert "metering ended by an error (Broken: out of order)" in str(run.error)
    assert run.kept.records == run.second.records == run.made == 2 * run.lines()
    assert run.outlet("file:").statistics.sent_flow_records == run.made


def test_losses_of_a_broken_collector_are_the_latest_known(run: Run) -> None:
    run.patch.setattr(run.collector, "losses", lambda: {"flow_ring_full": 7})
    run.open()

    def breaks() -> None:
        run.probe.figures()
        run.patch.setattr(run.collector, "losses", broken)

    run.run(breaks)
    assert run.losses["flow_ring_full"] == 7
    assert run.outlet("file:").part.is_on  # its options report losses


def test_a_cache_that_breaks_ends_metering_with_an_error(run: Run) -> None:
    run.open()
    run.run(lambda: run.patch.setattr(run.probe.cache, "observe", broken))
    assert isinstance(run.error, MeteringError)
    assert run.kept.records == 2 * _PER_READ  # the records before the error


def test_where_nobody_is_left_to_tell_metering_ends(run: Run) -> None:
    run.probe = open_probe(run.config, [f"file://{run.path}"])
    sink: Any = run.outlet("file:").sink
    run.run(lambda: run.patch.setattr(sink, "send", broken))
    assert "nothing is left that takes flows" in str(run.error)


def test_a_reader_that_is_gone_is_the_end_and_no_fault(run: Run) -> None:
    """A closed pipe ends the probe quietly, as in ``sockflow flows | head``."""

    def gone(*_: object) -> None:
        raise BrokenPipeError

    run.patch.setattr(run.kept, "send", gone)
    run.open()
    with pytest.raises(BrokenPipeError):
        run.run()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_is_not_kept(run: Run, error: type[BaseException]) -> None:
    def interrupted(*_: object) -> None:
        raise error

    run.patch.setattr(run.kept, "send", interrupted)
    run.open()
    with pytest.raises(error):
        run.run()
    run.probe.close()


def test_running_out_of_memory_is_an_error_like_any_other(run: Run) -> None:
    def greedy(*_: object) -> None:
        np.zeros(2**62, np.uint8)

    run.patch.setattr(run.kept, "send", greedy)
    run.open().run()
    assert "MemoryError" in run.outlet("kept").part.error
    assert run.second.records == run.made == 2 * run.lines()


def test_a_destination_that_cannot_be_opened_is_an_error_at_the_start(run: Run) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        run.open(f"json://{run.path.parent}/missing/flows")


def test_all_are_closed_though_each_raises(run: Run) -> None:
    closed: list[str] = []

    def close_badly(name: str) -> Callable[[], None]:
        def close(*_: object) -> None:
            closed.append(name)
            raise Broken(name)

        return close

    run.patch.setattr(run.collector, "close", close_badly("collector"))
    run.patch.setattr("probe.run.feed.Feed.close", close_badly("feed"))
    run.patch.setattr(InterfaceList, "close", close_badly("interfaces"))
    run.open()
    run.patch.setattr(run.kept, "close", close_badly("kept"))
    run.patch.setattr(run.second, "close", close_badly("second"))
    assert isinstance(run.probe.nat, Nat)
    run.patch.setattr(run.probe.nat, "close", close_badly("nat"))
    run.run()
    assert sorted(closed) == ["collector", "feed", "interfaces", "kept", "nat", "second"]


def test_sighup_while_metering_ends_nothing(run: Run) -> None:
    """SIGHUP is harmless if no destination has a file to reopen."""
    run.open(f"file://{run.path}")
    reads: list[int] = []
    with StopSignals(run.probe.exporter.reopening()) as stop:
        for _ in Loop(run.probe, stop).steps(60):
            os.kill(os.getpid(), signal.SIGHUP)
            reads.append(run.collector.reads)
            stop.received = len(reads) >= 4
    run.probe.close()
    assert len(reads) >= 4
    assert run.outlet("file:").statistics.sent_flow_records == run.made
