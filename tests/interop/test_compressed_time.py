"""Tests half an hour of mixed traffic in seconds with every profile, protocol and transport.

A strict reader checks it. Sessions are those of the probe. The clock and the sockets are the
test's.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from probe.config import RunConfig
from probe.export.message_sink import MessageSink
from probe.export.sink_factory import SinkFactory
from probe.export.transports.destination import Destination
from probe.export.transports.sender import Sender
from probe.export.transports.statistics import SendStatistics
from probe.figures import Figures
from probe.flow.biflow import pair_directions
from probe.flow.owner import Container, Owner, OwnerTable, Process
from probe.flow.rows import Rows
from probe.interfaces.names import InterfaceList
from probe.ipfix.message import Train
from probe.mapping import load_profiles
from probe.run.destinations import parse_destination
from tests.support.reader import Severity, StrictReader
from tests.support.records import NOW_S, flow_records, owner

_MINUTES = 30
_TICK_S = 30
_NAMES = ("nginx", "größe-" * 9, "日本語のプロセス", "", "a\tb\0c", "x" * 300)
UDP = ("ipfix://127.0.0.1:4739", "netflow9://127.0.0.1:2055")
STREAM = "ipfix+tcp://127.0.0.1:4739"
#: Every profile over UDP and over a connection, and IPFIX over UDP with Biflows.
CASES = [
    f"{base}?profile={profile}{extra}"
    for profile in load_profiles()
    for base, extra in [(UDP[0], ""), (UDP[0], "&biflow=rfc5103"), (UDP[1], ""), (STREAM, "")]
]
CASES += [f"{base}?profile=full&max_message=1100" for base in (*UDP, STREAM)]
#: Strings of options are padded, because nfdump needs fixed lengths.
_MEANT = ("value.nul",)


class Recorder:
    """A sender of datagrams that keeps what it is given."""

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.max_message = destination.max_message
        self.statistics = SendStatistics()
        self.is_down, self.is_reliable, self.is_stocked, self.backlog = False, True, False, 0
        self.trains: list[Train] = []
        self.is_new = True

    def needs_templates(self) -> bool:
        is_new, self.is_new = self.is_new, False
        return is_new

    def enqueue(self, trains: Iterable[Train]) -> None:
        self.trains += trains

    def first_sequence(self, domain: int) -> int | None:
        return None

    def take_backlog(self) -> list[Train]:
        return self.take()

    def take(self) -> list[Train]:
        taken, self.trains = self.trains, []
        return taken

    def pump(self, now: float) -> float | None:
        return None

    def flush(self, deadline: float) -> bool:
        return True

    def local_address(self) -> tuple[str, int]:
        return "192.0.2.1", 40000

    def close(self) -> None: ...


class StreamRecorder(Recorder):
    """A recorder that acts as a connection."""

    keeps_order = True

    def first_sequence(self, domain: int) -> int | None:
        return 0


class Metered:
    """Some figures for the options."""

    def figures(self) -> Figures:
        return Figures(
            flows=12345,
            excluded_packets=3,
            excluded_octets=4000,
            losses={"ring_full": 0, "map_full": 1 << 40},
        )


def owners() -> OwnerTable:
    table = OwnerTable()
    for number, name in enumerate(_NAMES, 1):
        table.add(
            Owner(
                Process(number, name, "/" + name, user_name=name),
                parent=Process(name=name),
                container=Container(f"{number:064x}"),
            )
        )
    for number in range(len(_NAMES) + 1, 20):
        table.add(owner(number))
    return table


def mixed(tick_s: int, random: np.random.Generator) -> Rows:
    """Returns both directions of TCP and UDP flows of both IP versions, some of them translated."""
    count = int(random.integers(0, 60))
    there = np.concatenate([flow_records(count, 19), flow_records(count // 3, 19, ip_version=6)])
    there["flow_id"] = tick_s * 1000 + np.arange(len(there))
    there["biflow_direction"] = 1
    translated = there["translated"][: count // 4]
    translated[:] = 1
    there["nat_source_address"][: count // 4] = (192, 0, 2, 1)
    there["nat_source_port"][: count // 4] = 61000
    back = there[random.random(len(there)) < 0.7].copy()
    for name in ("address", "port", "owner"):
        source, destination = f"source_{name}", f"destination_{name}"
        back[source], back[destination] = back[destination].copy(), back[source].copy()
    back["biflow_direction"], back["translated"] = 2, 0
    back["octets"] = back["packets"] * random.integers(40, 65535)
    records: Rows = np.concatenate([there, back])
    for name in ("first_ns", "last_ns"):
        records[name] += tick_s * 1_000_000_000
    random.shuffle(records)
    return records


def play(reader: StrictReader, url: str, start_s: int, key: str, connections: int) -> int:
    """Plays half an hour of one run of the probe, and returns how many records it sent."""
    made: list[Recorder] = []

    def record(destination: Destination) -> Sender:
        kind = StreamRecorder if destination.scheme == "ipfix+tcp" else Recorder
        made.append(kind(destination))
        return made[0]

    interfaces = InterfaceList()
    interfaces.refresh()
    factory = SinkFactory(RunConfig(), owners(), Metered(), interfaces, NOW_S - 86_400.0)
    stream: MessageSink = factory.message_sink(parse_destination(url), record)
    (recorder,) = made
    random = np.random.default_rng(start_s)
    transport = "tcp" if isinstance(recorder, StreamRecorder) else "udp"
    sent, connection = 0, 0
    for tick_s in range(start_s, start_s + _MINUTES * 60, _TICK_S):
        if (now := (tick_s - start_s) * connections // (_MINUTES * 60)) != connection:
            connection = now
            recorder.is_new = True
        records = mixed(tick_s, random)
        sent += len(pair_directions(records)) if "biflow" in url else len(records)
        stream.send(records, NOW_S + tick_s)
        for message in [message for train in recorder.take() for message in train]:
            name = f"{key}/{connection}" if transport == "tcp" else key
            reader.feed(bytes(message), NOW_S + tick_s, name, transport)
    return sent


@pytest.mark.parametrize("url", CASES)
def test_no_rule_is_broken(url: str) -> None:
    """The time includes refreshes of Templates and restarts of probe and connection."""
    reader = StrictReader()
    sent = play(reader, url, 0, "first run", 3)
    sent += play(reader, url, _MINUTES * 60, "after a restart", 1)
    reader.finish()
    meant = (*_MEANT, "type.missing") if "antrea" in url else _MEANT  # Antrea's has no options
    assert reader.broken(Severity.ERROR, Severity.WARNING, but=meant) == []
    assert reader.totals["flows"] == sent
    assert reader.totals["templates"] >= (2 if "tcp" in url else 6)


class Emptying(Recorder):
    """A recorder that sends all waiting messages whenever it is pumped."""

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self.most = 0
        self.left: list[bytes] = []

    def pump(self, now: float) -> float | None:
        taken = self.take()
        self.most = max(self.most, sum(len(train.octets) for train in taken))
        self.left += [bytes(message) for train in taken for message in train]
        return None


@pytest.mark.parametrize("url", UDP)
def test_a_large_tick_leaves_by_lots(url: str) -> None:
    """Few messages wait at a time, and the sequence goes on from lot to lot."""
    made: list[Emptying] = []

    def record(destination: Destination) -> Sender:
        made.append(Emptying(destination))
        return made[0]

    factory = SinkFactory(RunConfig(), owners(), Metered(), InterfaceList(), NOW_S - 86_400.0)
    stream = factory.message_sink(parse_destination(f"{url}?profile=nfdump"), record)
    stream.send(flow_records(20_000, 19), NOW_S + 60)
    stream.pump(0.0)
    (sender,) = made
    reader = StrictReader()
    for message in sender.left:
        reader.feed(message, NOW_S + 60)
    reader.finish()
    assert reader.broken(Severity.ERROR) == []
    assert reader.totals["flows"] == 20_000
    assert sender.most < sum(map(len, sender.left)) / 4
