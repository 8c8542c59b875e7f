"""Tests that owners and records get names of containers, however late the names come."""

from __future__ import annotations

import numpy as np

from probe.enrich.container_owners import ContainerOwners
from probe.enrich.waiting_records import WaitingRecords
from probe.flow.owner import Container, ContainerNames, Node, Owner, Pod, Process
from probe.owners.runtime import KnownContainers
from tests.support.records import flow_records

WEB = ContainerNames("web", "nginx:1", "shop", "front")


class Known(KnownContainers):
    """A runtime whose names may come two seconds late."""

    def patience_s(self, in_pod: bool = False) -> float:
        return 2.0

    def close(self) -> None:
        pass


def owners_of(runtime: Known, *containers: str) -> ContainerOwners:
    owners = ContainerOwners((runtime,))
    for number, container_id in enumerate(containers):
        owners.add(Owner(Process(number), container=Container(container_id)))
    return owners


def test_an_owner_has_its_names_from_the_beginning() -> None:
    runtime = Known()
    runtime.add("aa", WEB)
    owners = owners_of(runtime, "aa", "")
    assert owners[1] == Owner(
        Process(0),
        container=Container(
            "aa", name="web", image="nginx:1", compose_project="shop", compose_service="front"
        ),
    )
    assert owners[2] == Owner(Process(1))
    assert owners.nameless(1.0).tolist() == []


def test_names_that_come_later() -> None:
    runtime = Known()
    owners = owners_of(runtime, "aa", "bb", "aa")
    assert sorted(owners.nameless(10.0)) == [1, 2, 3]
    runtime.add("aa", WEB)
    assert sorted(owners.refresh()) == [1, 3]
    assert owners.refresh() == []
    assert (owners[1].container.name, owners[2].container.name) == ("web", "")
    assert owners.nameless(11.9).tolist() == [2]
    assert owners.nameless(12.1).tolist() == [], "it is not Docker's"


def test_a_container_that_is_renamed() -> None:
    runtime = Known()
    runtime.add("aa", WEB)
    owners = owners_of(runtime, "aa")
    owners.refresh()
    runtime.add("aa", ContainerNames("other"))
    assert owners.refresh() == [1]
    assert (owners[1].container.name, owners[1].container.image) == ("other", "")


def test_an_index_that_is_given_anew() -> None:
    runtime = Known()
    owners = owners_of(runtime, "aa")
    owners.release(1)
    assert owners.add(Owner(container=Container("bb"))) == 1
    runtime.add("aa", WEB)
    assert owners.refresh() == []
    assert owners[1] == Owner(container=Container("bb", is_unconfirmed=True))
    assert owners.nameless(0.5).tolist() == [1]


def test_a_container_that_is_gone_keeps_its_name_for_long() -> None:
    runtime = Known(keep_gone=2)
    for container_id in ("aa", "bb", "cc", "dd"):
        runtime.add(container_id, WEB)
    for container_id in ("aa", "bb", "unknown"):
        runtime.remove(container_id)
    assert len(runtime) == 2
    assert runtime.find("aa") == WEB
    runtime.remove("cc")
    assert runtime.find("aa") is None
    assert runtime.find("bb") == runtime.find("cc") == runtime.find("dd") == WEB


def test_all_that_exist() -> None:
    runtime = Known()
    runtime.add("aa", WEB)
    runtime.take_changed()
    runtime.replace_all({"bb": WEB, "aa": WEB})
    assert runtime.take_changed() == {"bb"}
    runtime.replace_all({"bb": ContainerNames("new")})
    assert runtime.take_changed() == {"bb"}
    assert len(runtime) == 1
    assert runtime.find("aa") == WEB, "its last flows are to come"
    runtime.add("aa", WEB)
    assert len(runtime) == 2


def test_records_wait_for_a_name() -> None:
    waiting = WaitingRecords(ContainerOwners())
    records = flow_records(4, owners=0)
    records["source_owner"], records["destination_owner"] = [1, 2, 3, 0], [0, 0, 7, 0]
    records["flow_id"] = [1, 1, 2, 3]
    some = np.array([2], np.int64)
    assert waiting.hold(records, some)["flow_id"].tolist() == [2, 3]
    assert len(waiting) == 2, "both directions of the flow"
    assert waiting.owners_in_use() == {0, 1, 2}
    assert waiting.hold(records[:0], some).tolist() == []
    later = waiting.hold(records[3:], np.zeros(0, np.int64))
    assert later["flow_id"].tolist() == [1, 1, 3]
    assert len(waiting) == 0


def test_not_more_records_wait_than_there_is_room() -> None:
    waiting = WaitingRecords(ContainerOwners(), most=2)
    records = flow_records(5, owners=1)
    assert waiting.hold(records, np.array([1]))["flow_id"].tolist() == [1, 2, 3]
    assert waiting.hold(records[:0], np.zeros(0, np.int64))["flow_id"].tolist() == [4, 5]
    assert len(waiting) == 0


def test_one_node_has_one_name() -> None:
    """This node has the API's name instead of the kernel's; other nodes keep their own."""
    owners = ContainerOwners()
    owners.node = "node-3"
    owners.set_runtimes((), {"node-3": "eu-1a"}.get)  # type: ignore[arg-type]
    here = owners[owners.add(Owner(Process(1), node=Node("vm")))]
    there = owners[owners.add(Owner(pod=Pod("x", "y"), node=Node("node-5")))]
    assert (here.node.name, here.node.zone) == ("node-3", "eu-1a")
    assert there.node.name == "node-5"


def test_a_pod_whose_cgroups_have_another_uid() -> None:
    """A static Pod is found by its cgroup's UID, and is shown with the API's."""
    runtime = Known()
    cgroup = "/kubepods/burstable/pod8d0d37e6d8dc0e2f6ee8a2f5f2b5b6c3"
    digest = cgroup.rpartition("pod")[2]

    class ByPod(Known):
        def find(self, container_id: str, pod_uid: str = "") -> ContainerNames | None:
            return ContainerNames(pod=Pod("api", "x", "real")) if (
                pod_uid == digest) else None  # fmt: skip

    runtime = ByPod()
    owners = ContainerOwners((runtime,))
    index = owners.add(Owner(Process(1), pod=Pod(uid=digest), cgroup=cgroup))
    assert (owners[index].pod.name, owners[index].pod.uid) == ("api", "real")
    runtime.add(digest, ContainerNames())
    assert owners.refresh() == [], "it has them already"
    owners.release(index)
    assert not owners._by_key


def test_a_pod_of_another_node_is_nobody_to_confirm() -> None:
    """The API has already named a Pod of another node, so no runtime confirms it."""
    owners = ContainerOwners((Known(),))
    there = Owner(pod=Pod("x", "y", "2c48913c"))
    assert owners[owners.add(there)] == there
