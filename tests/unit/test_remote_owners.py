"""Tests how Pods and Services at the other end are found by address and by time."""

from __future__ import annotations

import copy
import time
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from probe.enrich import remote_owners as remote
from probe.enrich.remote_owners import RemoteOwners
from probe.flow.codes import OwnerSource
from probe.flow.columns import ROW_DTYPE
from probe.flow.owner import Owner, OwnerTable, Process
from probe.flow.rows import Rows, Slots
from probe.owners.kubernetes import tenures
from probe.owners.kubernetes.objects import read_node, read_pod, read_service
from probe.owners.kubernetes.tenures import RemoteNames
from tests.support.kubernetes_api import recorded
from tests.support.records import flow_records

START_NS = 1_767_322_801 * 10**9  # start of the recorded Pods
LATER_NS = START_NS + 60 * 10**9
HERE = 1  # an owner of this host


def octets(address: str) -> bytes:
    return ip_address(address).packed.ljust(16, b"\0")


class Cluster:
    """The known Pods and Services, and records of flows from a local process to ``addresses``."""

    def __init__(self) -> None:
        self.names, self.owners = RemoteNames(), OwnerTable()
        assert self.owners.add(Owner(Process(7))) == HERE
        self.ends = RemoteOwners(self.names, self.owners)

    def pod(self, name: str, **changes: Any) -> None:
        self.names.add(read_pod(changed(name, **changes)))

    def flows(self, *addresses: str, begun_ns: int = LATER_NS) -> Rows:
        """Returns two records of each flow: one there, one back."""
        there = flow_records(len(addresses), owners=0)
        back = there.copy()
        for records, here, other in (
            (there, "source", "destination"),
            (back, "destination", "source"),
        ):
            records[f"{here}_owner"], records[f"{here}_netns"] = HERE, 99
            records[f"{other}_netns"] = 0
            records[f"{other}_owner_source"] = 0
            for row, address in enumerate(addresses):
                records[f"{other}_address"][row] = np.frombuffer(octets(address), np.uint8)
            records["begun_ns"], records["first_ns"] = begun_ns, begun_ns + 5
        return np.concatenate([there, back])

    def told(self, records: Rows) -> list[str]:
        """Returns the name of each flow's other end."""
        self.ends.apply(records)
        half = len(records) // 2
        assert (records["source_owner"][:half] == HERE).all()
        assert (records["destination_owner"][half:] == HERE).all()
        there = records["destination_owner"][:half].tolist()
        assert records["source_owner"][half:].tolist() == there
        return [self._name(index) for index in there]

    def _name(self, index: int) -> str:
        owner = self.owners[index]
        return owner.pod.name or owner.pod.workload


def changed(name: str, **changes: Any) -> dict[str, Any]:
    """Returns a recorded object with other values at some paths, such as status__podIPs."""
    found = copy.deepcopy(recorded(name))
    for path, value in changes.items():
        *above, last = path.split("__")
        at = found
        for key in above:
            at = at[key]
        at[last] = value
    return found


@pytest.fixture
def cluster() -> Cluster:
    found = Cluster()
    for name in ("web", "db", "elsewhere", "exporter", "backup"):
        found.pod(name)
    for name in ("service", "headless"):
        found.names.services.add(read_service(recorded(name)))
    return found


def test_pods_and_services_by_address(cluster: Cluster) -> None:
    records = cluster.flows(
        "10.244.5.2", "10.96.17.4", "203.0.113.9", "10.244.3.7", "fd00:10:244:3::7", "10.244.5.2"
    )
    api, web = "api-66f5d8c9b4-m4n2p", "web-7d4b9c6f5d-x2x7k"
    assert cluster.told(records) == [api, "Service/web", "", web, web, api]
    owner = cluster.owners[int(records["destination_owner"][0])]
    assert (owner.pod.namespace, owner.pod.workload, owner.node.name) == (
        "shop", "Deployment/api", "node-5"
    )  # fmt: skip
    assert (owner.process.pid, owner.container.id) == (None, "")
    sources = records["destination_owner_source"][:6].tolist()
    assert sources == [OwnerSource.ADDRESS] * 2 + [0] + [OwnerSource.ADDRESS] * 3
    assert len(cluster.owners) == 1 + 1 + 3, "one owner for each Pod and Service"


def test_pods_in_the_network_of_their_host_are_never_meant(cluster: Cluster) -> None:
    assert cluster.told(cluster.flows("192.0.2.3")) == [""]


def test_a_pod_that_is_over_has_no_address(cluster: Cluster) -> None:
    assert cluster.told(cluster.flows("10.244.3.9")) == [""]
    cluster.pod("db", status__phase="Failed")
    assert cluster.told(cluster.flows("10.244.3.8", begun_ns=time.time_ns() + 10**9)) == [""]


def test_a_flow_that_is_older_than_the_pod(cluster: Cluster) -> None:
    """The start of the flow decides, not the start of this record.

    Another end had the address then.
    """
    records = cluster.flows("10.244.5.2", "10.244.5.2")
    records["begun_ns"] = [START_NS - 1, START_NS] * 2
    records["first_ns"] = LATER_NS
    assert cluster.told(records) == ["", "api-66f5d8c9b4-m4n2p"]
    records = cluster.flows("10.244.5.2", begun_ns=0)  # this record is the whole flow
    records["first_ns"] = START_NS - 1
    assert cluster.told(records) == [""]


def test_an_address_that_is_given_anew(cluster: Cluster) -> None:
    """Each holder of an address has the flows that began in its time.

    They may be reported later.
    """
    cluster.names.remove(read_pod(recorded("elsewhere")))
    ended_ns = time.time_ns()
    old = cluster.flows("10.244.5.2")
    assert cluster.told(old) == ["api-66f5d8c9b4-m4n2p"]
    assert cluster.told(cluster.flows("10.244.5.2", begun_ns=ended_ns + 10**9)) == [""]
    start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ended_ns / 1e9 + 5))
    cluster.pod(
        "elsewhere", metadata__uid="another", metadata__name="next", status__startTime=start
    )
    assert cluster.told(cluster.flows("10.244.5.2")) == ["api-66f5d8c9b4-m4n2p"]
    assert cluster.told(cluster.flows("10.244.5.2", begun_ns=ended_ns + 10 * 10**9)) == ["next"]


def test_what_a_list_does_not_have_any_more(cluster: Cluster) -> None:
    cluster.names.replace_all([read_pod(recorded("db"))])
    later = time.time_ns() + 10**9
    records = cluster.flows("10.244.5.2", "10.244.3.8", begun_ns=later)
    assert cluster.told(records) == ["", "db-0"]
    assert cluster.told(cluster.flows("10.244.5.2")) == ["api-66f5d8c9b4-m4n2p"]


def test_behind_the_address_of_a_service(cluster: Cluster) -> None:
    """If conntrack names the Pod behind the Service, the flow has that Pod."""
    records = cluster.flows("10.96.17.4", "10.96.17.4")
    records["protocol"] = 6
    records["destination_port"][:2] = records["source_port"][2:] = 80
    for side, row in (("destination", 0), ("source", 2)):
        records["translated"][row] = 1
        records[f"nat_{side}_address"][row] = [10, 244, 3, 8]
    assert cluster.told(records) == ["db-0", "Service/web"]
    for row, side in enumerate(("destination", "destination", "source", "source")):
        assert cluster.owners[int(records[f"{side}_owner"][row])].service == "shop/web:http"


def test_one_answer_for_both_directions(cluster: Cluster) -> None:
    """conntrack finds the Pod of the request only. Both directions and later records get it."""
    records = cluster.flows("10.96.17.4")
    records["protocol"] = 6
    records["destination_port"][0] = records["source_port"][1] = 80
    later = records.copy()
    records["translated"][0] = 1
    records["nat_destination_address"][0] = [10, 244, 3, 8]
    for told in (records, later):
        assert cluster.told(told) == ["db-0"]
        index = int(told["source_owner"][1])
        assert index == told["destination_owner"][0]
        owner = cluster.owners[index]
        assert (owner.pod.name, owner.pod.namespace, owner.service) == (
            "db-0", "data", "shop/web:http",
        )  # fmt: skip


def test_the_reply_may_come_alone_and_first(cluster: Cluster) -> None:
    records = cluster.flows("10.96.17.4")
    reply, request = records[1:].copy(), records[:1].copy()
    cluster.ends.apply(reply)
    assert cluster.owners[int(reply["source_owner"][0])].pod.workload == "Service/web"
    request["translated"], request["nat_destination_address"] = 1, [10, 244, 3, 8]
    cluster.ends.apply(request)
    reply["source_owner"] = 0
    cluster.ends.apply(reply)
    assert cluster.owners[int(reply["source_owner"][0])].pod.name == "db-0"


def test_a_reply_that_comes_first_is_asked_for(cluster: Cluster) -> None:
    """The look-up is that of its request: from the client's end to the Service."""
    reply = cluster.flows("10.96.17.4", "203.0.113.9")[2:]
    reply["flow_id"], reply["protocol"], reply["source_port"] = [5, 6], 6, 80
    asked: list[Rows] = []

    def find_peers(rows: Rows, packets: NDArray[np.int64]) -> tuple[Slots, Slots, Rows]:
        asked.append(rows)
        peers: Rows = np.zeros(1, ROW_DTYPE)
        peers["local_address"][0] = np.frombuffer(octets("10.244.3.8"), np.uint8)
        return np.arange(len(rows)), np.zeros(1, np.intp), peers

    cluster.ends.find_peers = find_peers
    cluster.ends.apply(reply)
    owner = cluster.owners[int(reply["source_owner"][0])]
    assert (owner.pod.name, owner.service) == ("db-0", "shop/web:http")
    (rows,) = asked
    assert rows["remote_address"].tobytes() == octets("10.96.17.4")
    assert (rows["remote_port"].item(), rows["protocol"].item()) == (80, 6)
    reply["source_owner"] = 0
    cluster.ends.apply(reply)
    assert len(asked) == 1, "once for each flow"


def test_behind_an_address_that_nobody_has(cluster: Cluster) -> None:
    """A load balancer or a node port has this address. Both directions get the Pod."""
    records = cluster.flows("203.0.113.9")
    records["translated"][0] = 1
    records["nat_destination_address"][0] = [10, 244, 3, 8]
    assert cluster.told(records) == ["db-0"]
    assert cluster.owners[int(records["destination_owner"][0])].service == ""


def test_flows_through_services_are_kept_within_bounds(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_MOST_BEHIND", 3)
    records = cluster.flows(*["10.96.17.4"] * 9)
    records["flow_id"] = [*range(9), *range(9)]
    records["translated"][:9] = 1
    records["nat_destination_address"][:9] = [10, 244, 3, 8]
    cluster.ends.apply(records)
    assert sorted(cluster.ends._behind) == [6, 7, 8]


def test_another_node(cluster: Cluster) -> None:
    """Flows of its processes and of Pods in its network name the node.

    Pods name the node that they are on.
    """
    cluster.names.nodes.add(read_node(recorded("node"), "east"))
    records = cluster.flows("192.0.2.5", "2001:db8::5", "10.244.5.2", "10.244.3.8")
    assert cluster.told(records) == ["Node/node-5"] * 2 + ["api-66f5d8c9b4-m4n2p", "db-0"]
    owners = [cluster.owners[int(index)] for index in records["destination_owner"][:4]]
    assert [one.node.name for one in owners] == ["node-5"] * 3 + ["node-3"]
    assert [one.node.zone for one in owners] == ["eu-1b"] * 3 + [""]
    assert owners[0].pod.cluster == "east"


def test_a_pod_that_waits_for_an_address(cluster: Cluster) -> None:
    """It exists for a minute while another Pod still has its future address."""
    waiting_since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))
    cluster.pod("db", metadata__uid="next", metadata__name="next", status__podIPs=[],
                status__podIP="", status__startTime=waiting_since)  # fmt: skip
    meanwhile = time.time_ns() - 30 * 10**9
    cluster.names.remove(read_pod(recorded("elsewhere")))
    address = {"ip": "10.244.5.2"}
    cluster.pod("db", metadata__uid="next", metadata__name="next", status__podIPs=[address],
                status__startTime=waiting_since)  # fmt: skip
    old = cluster.flows("10.244.5.2", begun_ns=meanwhile)
    assert cluster.told(old) == ["api-66f5d8c9b4-m4n2p"]
    assert cluster.told(cluster.flows("10.244.5.2", begun_ns=time.time_ns())) == ["next"]


def test_an_address_whose_bearer_is_not_told_to_be_gone_yet(cluster: Cluster) -> None:
    before = time.time_ns()
    cluster.pod("db", metadata__uid="next", metadata__name="next",
                status__podIPs=[{"ip": "10.244.5.2"}])  # fmt: skip
    assert cluster.told(cluster.flows("10.244.5.2", begun_ns=before)) == ["api-66f5d8c9b4-m4n2p"]
    later = cluster.flows("10.244.5.2", begun_ns=time.time_ns())
    assert cluster.told(later) == ["next"]


def test_ends_on_this_host_are_left_alone(cluster: Cluster) -> None:
    records = cluster.flows("10.244.5.2")
    records["destination_netns"][0], records["source_netns"][1] = 5, 5
    cluster.ends.apply(records)
    assert records["destination_owner"].tolist() == [0, HERE]
    cluster.ends.apply(records[:0])


def test_what_is_gone_is_kept_within_bounds(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenures, "_KEPT_GONE", 2)
    before = len(cluster.names)
    for number in range(50):
        one = read_pod(
            changed(
                "elsewhere",
                metadata__uid=f"u{number}",
                status__podIPs=[{"ip": f"10.1.0.{number}"}],
            )
        )
        cluster.names.add(one)
        cluster.names.remove(one)
    assert len(cluster.names) == before + 2


def test_owners_that_nobody_names_any_more(cluster: Cluster) -> None:
    records = cluster.flows("10.244.5.2", "10.244.3.8")
    cluster.told(records)
    first, second = records["destination_owner"][:2].tolist()
    now = time.monotonic()
    assert cluster.ends.sweep(set(), now) == []
    assert cluster.ends.sweep({first}, now + 301) == [second]
    assert cluster.told(cluster.flows("10.244.3.8")) == ["db-0"]
    assert sorted(cluster.ends.sweep(set(), now + 700)) == sorted([first, second])
    assert len(cluster.owners) == 2


def test_a_list_that_is_read_again_makes_no_new_owners(cluster: Cluster) -> None:
    cluster.told(cluster.flows("10.244.5.2"))
    before = len(cluster.owners)
    cluster.names.replace_all([read_pod(recorded(name)) for name in ("elsewhere", "web")])
    assert cluster.told(cluster.flows("10.244.5.2")) == ["api-66f5d8c9b4-m4n2p"]
    assert len(cluster.owners) == before
    cluster.pod("elsewhere", metadata__labels={}, metadata__name="renamed")
    assert cluster.told(cluster.flows("10.244.5.2")) == ["renamed"]
