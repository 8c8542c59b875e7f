"""Tests events from the kernel half's rows to destinations.

Containers' events are made from those of cgroups.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probe.config import RunConfig, build
from probe.enrich.container_owners import ContainerOwners
from probe.errors import ConfigError
from probe.flow.codes import EventKind
from probe.flow.columns import EVENT_DTYPE
from probe.flow.filter import FlowFilter, parse_rule
from probe.flow.owner import Container, ContainerNames, Owner, OwnerTable, Process
from probe.flow.rows import Rows
from probe.kernel.libbpf import KernelObject
from probe.owners.container import is_container
from probe.owners.users import UserNames
from probe.run.event_feed import EventFeed
from probe.run.own_traffic import OwnTraffic
from probe.run.wiring import open_probe
from probe.sources.container_events import (
    CGROUP_ENTERED,
    CGROUP_MADE,
    CGROUP_REMOVED,
    ContainerEvents,
)
from probe.sources.ebpf import OBJECT
from probe.sources.netlink import NetlinkSource
from tests.unit.test_container_owners import Known

SECOND_NS = 1_000_000_000
ID = "ab" * 32


def rows(*values: dict[str, Any]) -> Rows:
    found: Rows = np.zeros(len(values), EVENT_DTYPE)
    for at, one in enumerate(values):
        for name, value in one.items():
            found[name][at] = value
    return found


def told(events: Rows) -> list[tuple[str, int, int]]:
    """Returns (kind, time, owner) of each event."""
    return [(EventKind(e["kind"]).name, int(e["time_ns"]), int(e["owner"])) for e in events]


class Cgroups:
    """Feeds events of cgroups to ContainerEvents; ``now_ns`` grows by one with each."""

    def __init__(self) -> None:
        self.owners = OwnerTable()
        self.events = ContainerEvents(self.owners)
        self.now_ns = 0

    def observe(self, *happened: tuple[int, str, int | None]) -> list[tuple[str, int, int]]:
        """Takes (kind, cgroup, pid of the process that entered it); returns what was reported."""
        came = []
        for kind, cgroup, pid in happened:
            self.now_ns += 1
            container = ID if ID in cgroup else ""
            owner = self.owners.add(
                Owner(Process(pid), container=Container(container), cgroup=cgroup)
            )
            came.append({"kind": kind, "time_ns": self.now_ns, "owner": owner, "cookie": 5})
        return told(self.events.observe(rows(*came), self.now_ns))


def test_a_container_from_start_to_stop() -> None:
    """Start and stop both name the process that was executed first."""
    seen, path = Cgroups(), f"/docker/{ID}"
    assert seen.observe((CGROUP_MADE, path, None)) == []
    assert seen.events.owners_in_use() == {1}
    assert seen.observe((CGROUP_ENTERED, path, 7)) == [("CONTAINER_START", 2, 2)]
    assert seen.events.owners_in_use() == {2}
    assert seen.observe((CGROUP_REMOVED, path, None)) == [("CONTAINER_STOP", 3, 2)]
    assert seen.events.owners_in_use() == set()


def test_a_container_between_two_reads() -> None:
    seen, path = Cgroups(), f"/docker/{ID}"
    found = seen.observe(
        (CGROUP_MADE, path, None), (CGROUP_ENTERED, path, 7), (CGROUP_REMOVED, path, None)
    )
    assert found == [("CONTAINER_START", 2, 2), ("CONTAINER_STOP", 3, 2)]


def test_parts_of_a_container_are_none() -> None:
    """Podman and systemd run processes in cgroups below the container's.

    These are no containers.
    """
    seen = Cgroups()
    outer = f"/machine.slice/libpod-{ID}.scope"
    inner = f"{outer}/container"
    found = seen.observe(
        (CGROUP_MADE, outer, None), (CGROUP_MADE, inner, None), (CGROUP_ENTERED, inner, 7),
        (CGROUP_ENTERED, outer, 8), (CGROUP_REMOVED, inner, None), (CGROUP_REMOVED, outer, None),
    )  # fmt: skip
    assert found == [("CONTAINER_START", 3, 3), ("CONTAINER_STOP", 6, 3)]
    assert seen.observe((CGROUP_MADE, "/system.slice/a.service", None)) == []
    assert seen.observe((CGROUP_ENTERED, "/system.slice/a.service", 9)) == []
    assert seen.observe((CGROUP_REMOVED, "/system.slice/a.service", None)) == []


def test_one_that_executes_nothing_for_a_second() -> None:
    seen, path = Cgroups(), f"/docker/{ID}"
    seen.observe((CGROUP_MADE, path, None))
    seen.now_ns += SECOND_NS
    assert seen.observe() == []
    seen.now_ns += 1
    assert seen.observe() == [("CONTAINER_START", 1, 1)]
    assert seen.observe((CGROUP_ENTERED, path, 7)) == []
    assert [kind for kind, _, _ in seen.observe((CGROUP_REMOVED, path, None))] == ["CONTAINER_STOP"]


def test_one_that_was_there_before_has_an_end() -> None:
    seen = Cgroups()
    assert seen.observe((CGROUP_REMOVED, f"/docker/{ID}", None)) == [("CONTAINER_STOP", 1, 1)]


def test_events_are_sorted_by_time() -> None:
    """A socket's end is reported when its worker closes it, but has the time of the end."""
    came = rows({"kind": 1, "time_ns": 9}, {"kind": 4, "time_ns": 3}, {"kind": 3, "time_ns": 9})
    found = ContainerEvents(OwnerTable()).observe(came, 10)
    assert told(found) == [("CLOSE", 3, 0), ("CONNECT", 9, 0), ("ACCEPT", 9, 0)]


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        (f"/docker/{ID}", True),
        (f"/docker/{ID}/init.scope", False),
        (f"/kubepods.slice/kubepods-pod{'0' * 32}.slice/cri-containerd-{ID}.scope", True),
        (f"/docker/{ID}/docker/{'cd' * 32}", True),
        ("/lxc/web", True),
        ("/lxc/web/ns", False),
        ("/system.slice/ssh.service", False),
        ("/", False),
    ],
)
def test_which_cgroups_are_containers(cgroup: str, expected: bool) -> None:
    assert is_container(cgroup) == expected


def test_kinds_are_those_of_the_kernel_half() -> None:
    kernel = KernelObject(OBJECT)
    found = kernel.btf.enumerators("event_kind")
    kernel.close()
    of_containers = (EventKind.CONTAINER_START, EventKind.CONTAINER_STOP)
    ours = {f"EVENT_{kind.name}": int(kind) for kind in EventKind if kind not in of_containers}
    cgroups = {"MADE": CGROUP_MADE, "REMOVED": CGROUP_REMOVED, "ENTERED": CGROUP_ENTERED}
    assert found == ours | {f"EVENT_CGROUP_{name}": kind for name, kind in cgroups.items()}
    assert not set(cgroups.values()) & set(EventKind), "a cgroup's event is no container's"


class Collector:
    tells_events = True

    def __init__(self) -> None:
        self.came: list[Rows] = []

    def read_events(self) -> Rows:
        return self.came.pop(0) if self.came else rows()


class Exporter:
    def __init__(self) -> None:
        self.sent: list[list[int]] = []

    def send_events(self, events: Rows, now_s: float) -> None:
        self.sent.append(events["flow_id"].tolist())


class Feed:
    def __init__(self, *rules: str, runtime: Known | None = None, exclude: str = "") -> None:
        self.owners = ContainerOwners(() if runtime is None else (runtime,))
        self.collector, self.exporter = Collector(), Exporter()
        self.own = OwnTraffic(self.owners)
        chosen = FlowFilter(
            [parse_rule(rule) for rule in rules], [parse_rule(exclude)] if exclude else []
        )
        self.feed = EventFeed(
            self.collector, self.exporter, self.owners, self.own, chosen  # type: ignore[arg-type]
        )  # fmt: skip

    def pass_on(self, *values: dict[str, Any], may_wait: bool = True) -> list[list[int]]:
        """Returns the flow ids of the events that were sent, by call."""
        self.collector.came.append(rows(*values))
        self.feed.pass_on(may_wait)
        sent, self.exporter.sent = self.exporter.sent, []
        return sent


def test_nothing_is_sent_where_nothing_happened() -> None:
    assert Feed().pass_on() == []


def test_rules_hold_for_events() -> None:
    feed = Feed("port=53", "process=curl", exclude="protocol=tcp")
    curl = feed.owners.add(Owner(Process(name="curl")))
    sent = feed.pass_on(
        {"flow_id": 1, "remote_port": 53, "protocol": 17},
        {"flow_id": 2, "owner": curl, "protocol": 17},
        {"flow_id": 3, "protocol": 17},
        {"flow_id": 4, "owner": curl, "protocol": 6},
        {"flow_id": 5, "owner": curl, "kind": EventKind.CONTAINER_START},
    )
    assert sent == [[1, 2, 5]]


def test_own_traffic_is_no_event() -> None:
    feed = Feed()
    feed.own.remember([("192.0.2.1", 5000, 17)], 0.0)
    ours = {"local_address": [192, 0, 2, 1] + [0] * 12, "local_port": 5000, "flow_id": 1}
    ours["protocol"] = 17
    theirs = {"remote_address": [192, 0, 2, 1] + [0] * 12, "remote_port": 5000, "flow_id": 2}
    theirs["protocol"] = 17
    assert feed.pass_on(ours, {"flow_id": 3}, theirs) == [[3]]


def test_events_wait_for_the_name_of_their_container() -> None:
    """Rules by name are applied only then. Events of other containers do not wait."""
    runtime = Known()
    feed = Feed("container=web", "user=root", runtime=runtime)
    web = feed.owners.add(Owner(container=Container("aa")))
    root = feed.owners.add(Owner(Process(user_name="root")))
    feed.owners.nameless(0.0)
    assert feed.pass_on({"flow_id": 1, "owner": web}, {"flow_id": 2, "owner": root}) == [[2]]
    assert feed.feed.owners_in_use() == {web}
    runtime.add("aa", ContainerNames("web"))
    feed.owners.refresh()
    assert feed.pass_on({"flow_id": 3, "owner": web}) == [[1, 3]]
    assert feed.feed.owners_in_use() == set()


def test_the_other_end_is_named_as_records_are() -> None:
    """The other end is named by its address and time. Events of containers have no other end."""
    asked: list[Rows] = []

    def name(records: Rows) -> None:
        asked.append(records.copy())
        records["destination_owner"] = 9

    feed = Feed()
    feed.feed._name_remote = name
    told: list[Rows] = []
    feed.exporter.send_events = lambda events, now_s: told.append(events)  # type: ignore[method-assign]
    there = {"flow_id": 1, "ip_version": 4, "protocol": 6, "time_ns": 77, "remote_port": 80,
             "remote_address": [10, 96, 0, 1] + [0] * 12}  # fmt: skip
    feed.pass_on(there, {"flow_id": 2, "kind": EventKind.CONTAINER_START, "ip_version": 0})
    assert told[0]["remote_owner"].tolist() == [9, 0]
    (records,) = asked
    assert records["destination_address"][0].tolist() == there["remote_address"]
    assert records["begun_ns"].tolist()[0] == 77
    assert not records["destination_netns"].any()


def test_at_the_end_nothing_waits() -> None:
    feed = Feed(runtime=Known())
    web = feed.owners.add(Owner(container=Container("aa")))
    assert feed.pass_on({"flow_id": 1, "owner": web}) == []
    assert feed.pass_on(may_wait=False) == [[1]]


def test_netlink_has_none() -> None:
    with pytest.raises(ConfigError, match="events need the collector ebpf"):
        build({"events": True, "collector": "netlink"})
    collector = NetlinkSource(OwnerTable(), UserNames())
    assert not collector.tells_events
    assert collector.read_events().dtype == EVENT_DTYPE


@pytest.mark.parametrize("url", ["file://{}/flows", "zmq://127.0.0.1:1"])
def test_no_destination_takes_them(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="no destination that takes them"):
        open_probe(RunConfig(events=True), [url.format(tmp_path)])
