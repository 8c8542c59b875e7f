"""Tests the real probe over TCP, TLS and into files. A collector over UDP shows what is due."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe.collector.message_source import collecting_process
from probe.ipfix.decode import Record
from probe.ipfix.elements import DOCUMENTATION_PEN
from probe.mapping import load_elements, load_profiles
from tests.support.certificates import Authority
from tests.support.interop.collectors import Collect, FileOfRun, StreamCollect
from tests.support.interop.flows import Flow
from tests.support.interop.workload import INCLUDE, Workload
from tests.support.lab.hosts import Host
from tests.support.programs import (
    Datagrams,
    export_url,
    free_port,
    probing,
    wait_until,
)
from tests.support.reader import Severity, StrictReader

_NTOP, _ANTREA = 35632, 56506
#: Settings to get records while the probe runs, not only at its end. The idle timeout is long,
#: because an answer after it would be another flow.
HURRY = ("--active-timeout", 1, "--idle-timeout", 600, "--interval", 0.2, *INCLUDE)


@pytest.fixture(scope="module")
def workload(hosts: tuple[Host, Host]) -> Workload:
    return Workload(hosts)


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Collect]:
    """Yields a collector over UDP."""
    with contextlib.closing(Collect(tmp_path)) as collector:
        yield collector


def records(*collectors: Collect) -> Counter[Flow]:
    return Counter(flow for one in collectors for flow in one.flows())


def assert_same(witness: Collect, *collectors: Collect) -> None:
    """Checks that ``collectors`` together have every record once, and that there are some."""
    due = records(witness)
    assert len(due) >= 40
    assert records(*collectors) == due


def settle(*collectors: Collect, quiet_s: float = 1.5) -> None:
    """Waits until no collector has printed anything for a while, so all messages are read."""
    sizes: list[int] = []
    since = time.monotonic()
    while time.monotonic() < since + quiet_s:
        now = [len(one.program.output) for one in collectors]
        if now != sizes:
            sizes, since = now, time.monotonic()
        time.sleep(0.05)


def warnings(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if start in line]


def tls(authority: Path, pair: tuple[Path, Path]) -> str:
    return f"?ca={authority}&cert={pair[0]}&key={pair[1]}"


def test_tls_with_certificates_both_ways_and_wrong_ones(
    workload: Workload, witness: Collect, tmp_path: Path
) -> None:
    """A collector with a wrong certificate or authority gets nothing. The others miss nothing."""
    ours, strange = Authority(tmp_path), Authority(tmp_path, "stranger")
    server, probe_pair = ours.issue("collector"), ours.issue("probe")
    with contextlib.ExitStack() as stack:
        listeners = [
            stack.enter_context(
                contextlib.closing(
                    StreamCollect(tmp_path, tls=tls(ours.path, server), name=f"tls-{number}")
                )
            )
            for number in range(4)
        ]
        right, other_ca, other_name, unknown = listeners
        options = (
            "-e", witness.url,
            "-e", right.url + tls(ours.path, probe_pair) + "&name=collector.example",
            "-e", other_ca.url + tls(strange.path, probe_pair),
            "-e", other_name.url + tls(ours.path, probe_pair) + "&name=wrong.example",
            "-e", unknown.url + tls(ours.path, strange.issue("unknown")),
        )  # fmt: skip
        probe = stack.enter_context(probing(tmp_path, *options, *HURRY))
        workload.datagrams(50)
        assert probe.stop() == 0, probe.errors
        for collector in (witness, *listeners):
            collector.finish()
    said = [warnings(probe.errors, f"{one.url}: the collector") for one in (other_ca, other_name)]
    assert_same(witness, right)
    assert [one.program.output for one in listeners[1:]] == ["", "", ""]
    assert warnings(probe.errors, f"{right.url}: the") == []
    assert "certificate is refused: " in said[0][0]
    assert "certificate is refused: Hostname mismatch" in said[1][0]
    (refused,) = warnings(probe.errors, f"{unknown.url}: the collector")
    assert "the collector refuses our certificate: unknown ca" in refused
    assert [len(one) for one in said] == [1, 1]
    assert "Traceback" not in probe.errors
    assert "records_dropped" in probe.errors
    for one in listeners[1:]:
        assert "failed handshakes" in one.program.errors


def test_tcp_collector_that_comes_late_gets_all(
    workload: Workload, witness: Collect, tmp_path: Path
) -> None:
    port = free_port()
    url = f"ipfix+tcp://127.0.0.1:{port}"
    with probing(tmp_path, "-e", witness.url, "-e", url, *HURRY) as probe:
        workload.datagrams(50)
        settle(witness)
        assert len(warnings(probe.errors, f"{url}: Connection refused")) == 1
        with contextlib.closing(StreamCollect(tmp_path, port)) as late:
            workload.datagrams(50)
            wait_until(lambda: late.program.output, "a connection")
            assert probe.stop() == 0, probe.errors
            for collector in (late, witness):
                collector.finish()
    assert_same(witness, late)
    assert "lost: nothing" in probe.errors


def test_tcp_collector_that_is_killed_and_started_again(
    workload: Workload, witness: Collect, tmp_path: Path
) -> None:
    """The new connection has Templates again, and begins with the waiting messages."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.closing(StreamCollect(tmp_path, port)))
        probe = stack.enter_context(probing(tmp_path, "-e", witness.url, "-e", first.url, *HURRY))
        workload.datagrams(50)
        settle(witness, first)
        first.program.stop(signal.SIGKILL)
        workload.datagrams(50)
        settle(witness)
        second = StreamCollect(tmp_path, port, name="second")
        stack.enter_context(contextlib.closing(second))
        workload.datagrams(50)
        wait_until(lambda: second.program.output, "a connection")
        assert probe.stop() == 0, probe.errors
        for collector in (second, witness):
            collector.finish()
    assert_same(witness, first, second)
    assert min(sum(records(one).values()) for one in (first, second)) >= 40
    assert "0 records lost on the way, 0 broken messages, 0 sets without" in second.program.errors
    assert "lost: nothing" in probe.errors


def test_a_file_is_appended_to(workload: Workload, witness: Collect, tmp_path: Path) -> None:
    """Two runs, one after the other, write two Transport Sessions to one file."""
    file = FileOfRun(tmp_path)
    sizes = []
    for name in ("first", "second"):
        with probing(tmp_path, "-e", witness.url, "-e", file.url, *HURRY, name=name) as probe:
            workload.datagrams(50)
            assert probe.stop() == 0, probe.errors
        sizes.append(file.file.stat().st_size)
    witness.finish()
    with contextlib.closing(file):
        file.finish()
        assert_same(witness, file)
        assert "0 broken messages, 0 sets without" in file.program.errors
    assert sizes[0] < sizes[1]
    reader = StrictReader()
    reader.read_file(file.file)
    reader.finish()
    assert reader.broken(Severity.ERROR) == []
    assert reader.totals["flows"] == len(file.flows())


class ProfileTarget(Datagrams):
    """Receives the datagrams of one profile."""

    def __init__(self, profile: str, version: int) -> None:
        super().__init__()
        self.profile, self.version = profile, version
        self.url = f"{export_url(self.port, version=version)}&profile={profile}"

    def flows(self) -> list[Record]:
        process = collecting_process(DOCUMENTATION_PEN)
        found = [process.decode(message, "probe") for message in self.received]
        counted = process.statistics
        assert (counted.unknown_sets, counted.lost_records, counted.lost_messages) == (0, 0, 0)
        return [record for records in found for record in records]


def test_all_profiles_in_both_protocols_at_once(workload: Workload, tmp_path: Path) -> None:
    """Each destination has its own elements, and all have the same flows."""
    with contextlib.ExitStack() as stack:
        targets = [
            stack.enter_context(contextlib.closing(ProfileTarget(profile, version)))
            for profile in load_profiles()
            for version in (10, 9)
        ]
        urls = [word for one in targets for word in ("-e", one.url)]
        probe = stack.enter_context(probing(tmp_path, *urls, *HURRY))
        workload.datagrams(20)
        workload.short(10)
        assert probe.stop() == 0, probe.errors
        for one in targets:
            one.read()
    due = Counter(map(_counted, targets[0].flows()))
    assert len(due) >= 100
    elements = load_elements()
    for one in targets:
        assert Counter(map(_counted, one.flows())) == due, one.url
        used = {elements[name].pen for record in one.flows() for name in record}
        allowed = {"nfdump": {0}, "iana": {0}, "akvorado": {0}, "nprobe": {0, _NTOP},
                   "antrea": {0, _ANTREA}}  # fmt: skip
        assert used <= allowed.get(one.profile, {0, _NTOP, _ANTREA, DOCUMENTATION_PEN})


def _counted(record: Record) -> tuple[object, ...]:
    family = 4 if "sourceIPv4Address" in record else 6
    names = (f"sourceIPv{family}Address", f"destinationIPv{family}Address", "sourceTransportPort",
             "destinationTransportPort", "packetDeltaCount", "octetDeltaCount")  # fmt: skip
    return tuple(record[name] for name in names)
