"""Tests which container is behind which veth, by the kernel's links and namespaces."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from probe.flow.columns import RECORD_DTYPE
from probe.flow.rows import Rows
from probe.interfaces.namespaces import NetworkNamespaces
from probe.interfaces.veth import Kernel, VethMap
from probe.netlink.rtnetlink import Link

SECOND = 1_000_000_000


class Host(NetworkNamespaces):
    """Processes in network namespaces, which have ids in ours."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: dict[int, int] = {}  # inode -> pid
        self.ids: dict[int, int] = {}  # pid -> nsid
        self.containers: dict[int, str] = {}
        self.routes: dict[int, int] = {}
        self.now_ns = 0
        self.told: dict[int, Link] = {}
        self.addresses: dict[int, str] = {}  # by nsid
        self.now: dict[int, Link] = {}  # links that differ from the reported ones

    def map(self) -> VethMap:
        return VethMap(
            lambda pid: self.containers.get(pid, ""), lambda pid: self.routes.get(pid, 0),
            self, Rtnetlink(self), lambda: self.now_ns,
        )  # fmt: skip

    def scan(self, everything: bool = False) -> dict[int, int]:
        return self.processes

    def is_in(self, pid: int, inode: int) -> bool:
        return self.processes.get(inode) == pid

    def update(self, veths: VethMap, interfaces: list[Link]) -> bool:
        self.told = {interface.index: interface for interface in interfaces}
        return veths.update(interfaces)

    def begin(self, inode: int, pid: int, nsid: int, container: str) -> None:
        self.processes[inode], self.ids[pid], self.containers[pid] = pid, nsid, container

    def end(self, inode: int) -> None:
        del self.ids[self.processes.pop(inode)]


class Rtnetlink(Kernel):
    def __init__(self, host: Host) -> None:
        self.host = host

    def read_nsids(self, pids: Iterable[int]) -> dict[int, int]:
        return {pid: self.host.ids[pid] for pid in pids if pid in self.host.ids}

    def read_links(self, indices: Iterable[int]) -> dict[int, Link]:
        return {index: self.host.now.get(index, self.host.told[index]) for index in indices}

    def read_addresses(self, nsids: Iterable[int]) -> dict[str, int]:
        return {self.host.addresses[nsid]: nsid for nsid in nsids if nsid in self.host.addresses}


def veth(index: int, peer: int, nsid: int) -> Link:
    return Link(index, f"veth{index}", f"veth{index}", "veth", peer, nsid)


def record(source: tuple[int, int], destination: tuple[int, int], at_s: float = 5) -> Rows:
    """Returns a record whose ends are given as (inode, ifindex)."""
    found = np.zeros(1, RECORD_DTYPE)
    for side, (inode, ifindex) in (("source", source), ("destination", destination)):
        found[f"{side}_netns_inode"], found[f"{side}_netns"] = inode, inode
        found[f"{side}_ifindex"] = ifindex
    found["ip_version"], found["source_address"][:, 0] = 4, 10
    found["first_ns"] = found["last_ns"] = round(at_s * SECOND)
    found["egress_interface"] = 3
    return found


def applied(veths: VethMap, *records: Rows) -> list[tuple[int, int]]:
    rows = np.concatenate(records)
    veths.apply(rows)
    return [(int(row["ingress_interface"]), int(row["egress_interface"])) for row in rows]


def test_containers_behind_veths() -> None:
    host = Host()
    host.begin(100, 7, 0, "aa")
    host.begin(200, 8, 1, "bb")
    host.begin(300, 9, -1, "not ours")
    veths = host.map()
    assert host.update(veths, [
        veth(11, 2, 0), veth(12, 2, 1), veth(13, 2, 5), veth(14, 15, -1),
        Link(16, "vlan", "", "macvlan", 2, 1),
    ])  # fmt: skip
    assert [veths.container_id(index) for index in (11, 12, 13, 14, 16, 99)] == [
        "aa", "bb", "", "", "", "",
    ]  # fmt: skip
    assert applied(
        veths, record((100, 2), (200, 2)), record((1, 3), (200, 2)), record((100, 2), (0, 0)),
        record((1, 3), (300, 2)), record((100, 1), (100, 1)),
    ) == [(11, 12), (0, 12), (11, 3), (0, 3), (0, 0)]  # fmt: skip


def test_addresses_of_containers() -> None:
    host = Host()
    host.begin(100, 7, 0, "aa")
    host.begin(200, 8, 1, "")
    host.addresses = {0: "172.17.0.2", 1: "172.17.0.3", 5: "172.17.0.4"}
    veths = host.map()
    host.update(veths, [veth(11, 2, 0), veth(12, 2, 1), veth(13, 2, 5)])
    assert veths.addresses() == {"172.17.0.2": "aa"}
    host.containers[8] = "bb"
    assert veths.addresses() == {"172.17.0.2": "aa", "172.17.0.3": "bb"}
    host.update(veths, [veth(12, 2, 1)])
    assert veths.addresses() == {"172.17.0.3": "bb"}


def test_a_process_that_only_prepared_the_namespace() -> None:
    """The runtime's hook is in no container and ends before the first container process begins."""
    host = Host()
    host.begin(100, 7, 0, "")
    veths = host.map()
    host.update(veths, [veth(11, 2, 0)])
    assert veths.container_id(11) == ""
    host.end(100)
    host.begin(100, 8, 0, "aa")
    assert veths.container_id(11) == "aa"


def test_a_container_that_comes_and_goes_between_two_records() -> None:
    """The next container gets the same inode at once.

    The time of a flow decides which one it was.
    """
    host = Host()
    veths = host.map()
    host.update(veths, [])
    host.now_ns = 2 * SECOND
    host.begin(100, 7, 0, "aa")
    host.update(veths, [veth(11, 10, 0)])
    host.now_ns = 4 * SECOND - 1
    host.update(veths, [])
    host.end(100)
    host.now_ns = 4 * SECOND
    host.begin(100, 8, 0, "bb")
    host.update(veths, [veth(13, 12, 0)])
    assert veths.container_id(13) == "bb"
    assert veths.container_id(11) == ""
    assert applied(
        veths, record((100, 10), (0, 0), 3), record((100, 12), (0, 0), 5),
        record((100, 10), (0, 0), 5), record((100, 10), (0, 0), 1),
    ) == [(11, 3), (13, 3), (0, 3), (0, 3)]  # fmt: skip


def test_several_interfaces_in_a_container() -> None:
    host = Host()
    host.begin(100, 7, 0, "aa")
    host.routes[7] = 4
    veths = host.map()
    host.update(veths, [veth(11, 2, 0)])
    assert applied(veths, record((100, 0), (0, 0))) == [(11, 3)]
    host.update(veths, [veth(11, 2, 0), veth(12, 4, 0)])
    assert applied(
        veths, record((100, 2), (0, 0)), record((100, 4), (0, 0)), record((100, 0), (0, 0))
    ) == [(11, 3), (12, 3), (12, 3)]


def test_traffic_that_stays_in_a_container() -> None:
    """The socket's interface is not named for traffic within a container.

    It goes from 127.0.0.1, to the own address or from end to end.
    """
    host = Host()
    host.begin(100, 7, 0, "aa")
    veths = host.map()
    host.update(veths, [veth(11, 2, 0)])
    loopback, itself = record((100, 0), (0, 0)), record((100, 0), (0, 0))
    loopback["source_address"][:, 0] = 127
    itself["destination_address"] = itself["source_address"]
    assert applied(veths, loopback, itself, record((100, 1), (100, 0))) == [(0, 3), (0, 3), (0, 0)]


def test_a_veth_is_tied_as_soon_as_there_is_a_process() -> None:
    host = Host()
    veths = host.map()
    assert not host.update(veths, [veth(11, 2, 0)])
    host.begin(100, 7, 0, "")
    assert host.update(veths, [veth(11, 2, 0)])
    assert veths.container_id(11) == ""
    host.containers[7] = "aa"  # it joined its cgroup a moment later
    assert veths.container_id(11) == "aa"


def test_a_peer_that_moves() -> None:
    host = Host()
    host.begin(100, 7, 0, "aa")
    host.begin(200, 8, 1, "bb")
    veths = host.map()
    host.update(veths, [veth(11, 2, 0)])
    host.now_ns = 9 * SECOND
    host.update(veths, [veth(11, 2, 1)])
    assert veths.container_id(11) == "bb"
    assert applied(veths, record((200, 2), (0, 0), 10)) == [(11, 3)]


def test_processes_are_looked_at_once_they_have_settled(tmp_path: Path) -> None:
    now = 100.0
    for pid, name in ((1, "host"), (40, "host"), (50, "web")):
        (tmp_path / name).touch()
        (tmp_path / str(pid) / "ns").mkdir(parents=True)
        (tmp_path / str(pid) / "ns" / "net").symlink_to(tmp_path / name)
    (tmp_path / "60").mkdir()  # another user's process
    (tmp_path / "self").mkdir()
    host, web = ((tmp_path / name).stat().st_ino for name in ("host", "web"))
    spaces = NetworkNamespaces(str(tmp_path), lambda: now, lambda: 0.0)
    assert spaces.scan() == {host: 1, web: 50}

    def move(pid: int, name: str) -> None:
        link = tmp_path / str(pid) / "ns" / "net"
        link.unlink()
        link.symlink_to(tmp_path / name)

    move(1, "web")
    assert spaces.scan() == {host: 40, web: 1}
    now += 6
    move(1, "host")
    assert spaces.scan() == {host: 40, web: 1}
    assert spaces.scan(everything=True) == {host: 1, web: 50}


def test_a_look_takes_two_per_cent_of_the_time(tmp_path: Path) -> None:
    times, used = iter([10.0, 14.9, 15.1]), iter([1.0, 1.1, 1.1, 1.2])
    spaces = NetworkNamespaces(str(tmp_path), lambda: next(times), lambda: next(used))
    assert spaces.scan() == {}
    assert spaces.scan() is None  # the next scan is due at 15.0
    assert spaces.scan() == {}


def test_an_id_that_is_given_anew_while_the_veth_fades_away() -> None:
    """The old link, when it is read again, has no namespace any more."""
    host = Host()
    veths = host.map()
    assert not host.update(veths, [veth(11, 2, 0)])
    assert veths.retry_at() < float("inf")
    host.begin(100, 7, 0, "bb")
    host.now[11] = veth(11, 2, -1)
    assert host.update(veths, [veth(11, 2, 0), veth(13, 2, 0)])
    assert (veths.container_id(11), veths.container_id(13)) == ("", "bb")
    assert applied(veths, record((100, 2), (0, 0))) == [(13, 3)]
    assert host.update(veths, [veth(13, 2, 0)]) is False
    assert veths.retry_at() == float("inf")


def test_an_inode_that_is_given_anew_while_the_veth_fades_away() -> None:
    host = Host()
    host.begin(100, 7, 0, "aa")
    veths = host.map()
    host.update(veths, [veth(11, 2, 0)])
    host.end(100)
    host.begin(100, 8, 0, "bb")
    host.now_ns = 4 * SECOND
    host.update(veths, [veth(11, 2, 0), veth(13, 2, 0)])
    assert (veths.container_id(11), veths.container_id(13)) == ("aa", "bb")
    assert applied(veths, record((100, 2), (0, 0), 3), record((100, 2), (0, 0), 5)) == [
        (11, 3), (13, 3),
    ]  # fmt: skip


def test_an_inode_that_was_given_to_somebody_unknown() -> None:
    """The new holder is unknown, so the flow must not get the former holder's container."""
    host = Host()
    host.begin(100, 7, 0, "aa")
    veths = host.map()
    host.update(veths, [veth(11, 2, 0)])
    host.now_ns = 4 * SECOND
    host.update(veths, [])
    assert applied(veths, record((100, 0), (0, 0), 3), record((100, 0), (0, 0), 5)) == [
        (11, 3), (0, 3),
    ]  # fmt: skip
