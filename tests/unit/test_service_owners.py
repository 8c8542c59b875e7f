"""Tests Services in front of local Pods. Flows name them beside the process and its Pod."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from probe.enrich import service_owners as served
from probe.enrich.container_owners import ContainerOwners
from probe.enrich.service_owners import ServiceOwners
from probe.flow.codes import OwnerSource
from probe.flow.owner import Owner, Pod, Process
from probe.flow.rows import Rows
from probe.owners.kubernetes.objects import read_service
from probe.owners.kubernetes.tenures import Tenures
from tests.support.kubernetes_api import recorded
from tests.support.records import flow_records

CLIENT, SERVER = 1, 2  # owners
ADDRESSES = {"client": (10, 244, 3, 7), "pod": (10, 244, 3, 8), "service": (10, 96, 17, 4)}


class Node:
    def __init__(self) -> None:
        self.owners, services = ContainerOwners(), Tenures()
        assert self.owners.add(Owner(Process(7))) == CLIENT
        assert self.owners.add(Owner(Process(8), pod=Pod("db-0", "data"))) == SERVER
        services.add(read_service(recorded("service")))
        self.ends = ServiceOwners(services, self.owners)

    def services(self, records: Rows) -> list[tuple[str, str]]:
        """Returns (source's Service, destination's Service) of each record."""
        self.ends.apply(records)
        pids = [
            (self.owners[a].process.pid, self.owners[b].process.pid)
            for a, b in records[["source_owner", "destination_owner"]].tolist()
        ]
        assert pids == [(7, 8), (8, 7)][: len(pids)]
        return [
            (self.owners[a].service, self.owners[b].service)
            for a, b in records[["source_owner", "destination_owner"]].tolist()
        ]


def flow(reached: str = "service", is_translated: bool = False) -> Rows:
    """Returns the request and the reply as the sockets of both ends see them."""
    records = flow_records(2, owners=0)
    records["flow_id"], records["protocol"], records["translated"] = 77, 6, 0
    records["source_address"] = records["destination_address"] = 0
    for record, here, other in ((records[0:1], "source", "destination"),
                                (records[1:2], "destination", "source")):  # fmt: skip
        target = reached if here == "source" else "pod"
        record[f"{here}_address"][:, :4] = ADDRESSES["client"]
        record[f"{other}_address"][:, :4] = ADDRESSES[target]
        record[f"{here}_port"], record[f"{other}_port"] = 40000, 80 if target != "pod" else 8080
        record[f"{here}_owner"], record[f"{other}_owner"] = CLIENT, SERVER
    records["source_netns"] = records["destination_netns"] = 99
    records["source_owner_source"] = records["destination_owner_source"] = OwnerSource.SOCKET_CALL
    records["begun_ns"] = records["first_ns"] = time.time_ns()
    if is_translated:
        records["translated"][1] = 1
        records["nat_source_address"][1], records["nat_source_port"][1] = ADDRESSES["service"], 80
    return records


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.mark.parametrize("is_translated", [True, False])
def test_both_directions_have_the_service(node: Node, is_translated: bool) -> None:
    both = [("", "shop/web:http"), ("shop/web:http", "")]
    assert node.services(flow(is_translated=is_translated)) == both
    assert len(node.owners) == 1 + 2 + 1, "the Service makes one owner of the server's"
    assert node.services(flow()) == both
    assert len(node.owners) == 1 + 2 + 1


def test_a_reply_alone(node: Node) -> None:
    """The flow's request is known from before, or found by conntrack."""
    node.services(flow())
    reply = flow()[1:]
    node.ends.apply(reply)
    assert node.owners[int(reply["source_owner"][0])].service == "shop/web:http"
    reply = flow(is_translated=True)[1:]
    Node().ends.apply(reply)
    assert reply["source_owner"][0] > SERVER


def test_a_process_of_the_host_sends_datagrams(node: Node) -> None:
    """Its socket is metered behind the host's NAT, so only the reply names the Service."""
    records = flow("pod", is_translated=True)
    assert node.services(records) == [("", "shop/web:http"), ("shop/web:http", "")]
    assert node.services(flow("pod")) == [("", "shop/web:http"), ("shop/web:http", "")]


def test_who_reaches_the_pod_itself(node: Node) -> None:
    assert node.services(flow("pod")) == [("", ""), ("", "")]
    assert len(node.owners) == 1 + 2


def test_what_has_no_owner_gets_none(node: Node) -> None:
    records = flow()
    records["destination_owner"][0] = records["source_owner"][1] = 0
    node.ends.apply(records)
    assert records["destination_owner"][0] == records["source_owner"][1] == 0
    node.ends.apply(records[:0])


def test_an_owner_that_is_described_anew(node: Node) -> None:
    """Later records have the new names; earlier records keep the old ones."""
    records = flow()
    node.services(records)
    old = int(records["destination_owner"][0])
    node.owners.replace(
        SERVER,
        dataclasses.replace(
            node.owners[SERVER],
            container=dataclasses.replace(node.owners[SERVER].container, name="db"),
        ),
    )
    records = flow()
    node.services(records)
    new = int(records["destination_owner"][0])
    names = [node.owners[index].container.name for index in (old, new)]
    assert names == ["", "db"]
    now = time.monotonic()
    assert node.ends.sweep({new}, now) == []
    assert node.ends.sweep({new}, now + 301) == [old]
    assert node.ends.sweep(set(), now + 301) == [new]
    assert len(node.owners) == 1 + 2


def test_flows_are_kept_within_bounds(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_MOST_FLOWS", 3)
    records = np.concatenate([flow()[:1] for _ in range(9)])
    records["flow_id"] = range(9)
    node.ends.apply(records)
    assert sorted(node.ends._flows) == [6, 7, 8]
