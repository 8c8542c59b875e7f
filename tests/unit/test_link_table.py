"""Tests interfaces with their counters, and the times since which these are valid."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from probe.flow.owner import ContainerNames, Pod
from probe.interfaces import names, table
from probe.interfaces.ended import EndedInterfaces
from probe.interfaces.history import InterfaceHistory, is_same
from probe.interfaces.interface import Counters, Interface
from probe.interfaces.names import InterfaceList
from probe.interfaces.types import if_type, oper_status, read_speed
from probe.jsonlines.interface_objects import interface_object
from probe.netlink import link_statistics as counters
from probe.netlink import wire
from probe.netlink.link_statistics import COUNTERS, highest, of_other_end
from probe.netlink.rtnetlink import Link

VETH = Link(7, "veth7", "veth7", kind="veth", peer=2, peer_nsid=0, flags=0x11043, state=6,
                 mtu=1400, address=b"\2\0\0\0\0\7")  # fmt: skip


def octets(*values: int, missed: int = 0) -> bytes:
    """Returns a struct rtnl_link_stats64 that begins with ``values``."""
    return COUNTERS.pack(*values, *[0] * (9 - len(values))) + struct.pack("=16Q", *[0] * 6, missed,
                                                                         *[0] * 9)  # fmt: skip


@dataclass
class Kernel:
    interfaces: list[Link]
    counters: dict[int, bytes]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Returns a fake kernel. Every refresh reads all of its ``interfaces`` again."""
    found = Kernel([VETH], {7: octets(1, 2, 300, 400, 5, 6, 7, 8, 9, missed=10)})

    def fail(_: object) -> list[object]:
        raise OSError(errno.ENOBUFS, "no room")

    def once(events: list[int]) -> Iterator[object]:
        if len(events):
            raise BlockingIOError
        events.append(1)
        raise OSError(errno.ENOBUFS, "no room")

    class Events(list[int]):
        def fileno(self) -> int:
            return -1

        def close(self) -> None:
            pass

    def receive(events: Events) -> Iterator[object]:
        try:
            return once(events)
        except BlockingIOError:
            events.clear()
            raise

    monkeypatch.setattr(names, "subscribe", Events)
    monkeypatch.setattr(names, "read_links", lambda: list(found.interfaces))
    monkeypatch.setattr(names, "receive_changes", receive)
    monkeypatch.setattr(table, "read_counters", lambda: dict(found.counters))
    monkeypatch.setattr(table, "read_link", lambda *_: Link(2, "eth0", "eth0"))
    return found


class Veths:
    container = "abc123"

    def update(self, interfaces: object) -> bool:
        return False

    def container_id(self, index: int) -> str:
        return self.container


def test_a_link_has_all_of_it(kernel: Kernel) -> None:
    web = ContainerNames("web", pod=Pod("shop-1", "shop"))
    known = InterfaceList(Veths(), find_names={"abc123": web}.get)  # type: ignore[arg-type]
    (link,) = known.table.read()
    assert replace(link, changed_s=0.0, since_s=0.0) == Interface(
        7, "veth7", "", "veth", 6, 1400, 10_000_000_000, b"\2\0\0\0\0\7", True, 1, False, 2, 0, 0,
        "eth0", "abc123", web, counters=Counters(300, 1, 9, 5, 17, 400, 2, 6, 8),
    )  # fmt: skip
    assert known.table.read() == [link]


def test_what_did_not_change_is_the_same_object(kernel: Kernel) -> None:
    known = InterfaceList()
    (before,) = known.table.read()
    assert known.table.read()[0] is before
    kernel.counters[7] = octets(2)
    (after,) = known.table.read()
    assert (after.counters.in_packets, after.since_s) == (2, before.since_s)


def test_an_index_that_returns_for_another_device(kernel: Kernel) -> None:
    known = InterfaceList()
    (before,) = known.table.read()
    kernel.interfaces = [replace(VETH, name="veth9", address=b"\2\0\0\0\0\x09")]
    (after,) = known.table.read()
    assert after.since_s > before.since_s
    assert after.changed_s == after.since_s


def test_a_status_that_changes_and_a_name_that_does(kernel: Kernel) -> None:
    known = InterfaceList()
    (before,) = known.table.read()
    kernel.interfaces = [replace(VETH, name="uno")]
    (renamed,) = known.table.read()
    assert (renamed.name, renamed.changed_s) == ("uno", before.changed_s)
    kernel.interfaces = [replace(VETH, name="uno", state=2)]
    (down,) = known.table.read()
    assert down.oper_status == 2
    assert down.changed_s > before.changed_s == down.since_s


def test_who_is_gone_has_no_row(kernel: Kernel) -> None:
    known = InterfaceList()
    kernel.interfaces = [VETH, Link(8, "new", "new")]
    assert [link.index for link in known.table.read()] == [7], "it came after the counters"
    kernel.interfaces = []
    assert known.table.read() == []
    assert known.history.since_s(7) == 0


def test_a_kernel_that_does_not_answer_is_warned_of_once(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> dict[int, bytes]:
        raise OSError(errno.EPERM, "no")

    known = InterfaceList()
    with monkeypatch.context() as patch:
        patch.setattr(table, "read_counters", refuse)
        assert [known.table.read(), known.table.read()] == [[], []]
    assert len(caplog.records) == 1
    assert len(known.table.read()) == 1


def test_an_interface_that_is_gone_and_back_begins_anew() -> None:
    now = iter((10.0, 20.0))
    history = InterfaceHistory(lambda: next(now))
    history.note(None, VETH)
    history.note(None, VETH)
    assert history.since_s(7) == 20.0


def test_which_devices_may_be_the_same() -> None:
    assert is_same(VETH, replace(VETH, name="renamed"))
    assert is_same(VETH, replace(VETH, address=b"\2\0\0\0\0\1"))
    assert not is_same(VETH, replace(VETH, kind="bridge"))
    assert not is_same(VETH, replace(VETH, name="renamed", address=b"\2\0\0\0\0\1"))
    nameless = replace(VETH, address=b"")
    assert not is_same(nameless, replace(nameless, name="tun1"))


@pytest.mark.parametrize(
    ("kind", "hardware", "wanted"),
    [("", 1, 6), ("", 772, 24), ("bridge", 1, 209), ("vlan", 1, 135), ("veth", 1, 6),
     ("sit", 776, 131), ("wireguard", 65534, 131), ("", 4711, 1), ("bond", 1, 161)],
)  # fmt: skip
def test_types(kind: str, hardware: int, wanted: int) -> None:
    assert if_type(Link(1, "x", "x", kind, type=hardware)) == wanted


@pytest.mark.parametrize(
    ("state", "flags", "wanted"),
    [(6, 1, 1), (2, 1, 2), (0, 0x10041, 1), (0, 0, 2), (0, 1, 4), (1, 0, 6), (3, 1, 7), (4, 1, 3),
     (5, 1, 5), (99, 1, 4)],
)  # fmt: skip
def test_states(state: int, flags: int, wanted: int) -> None:
    assert oper_status(replace(VETH, state=state, flags=flags)) == wanted


def test_speed_is_that_of_the_same_device(tmp_path: Path) -> None:
    device = tmp_path / "eth0"
    device.mkdir()
    (device / "ifindex").write_text("3\n")
    (device / "speed").write_text("2500\n")
    assert read_speed(Link(3, "eth0", "eth0"), tmp_path) == 2_500_000_000
    assert read_speed(Link(4, "eth0", "eth0"), tmp_path) == 0, "another namespace's"
    (device / "speed").write_text("-1\n")
    assert read_speed(Link(3, "eth0", "eth0"), tmp_path) == 0
    assert read_speed(Link(3, "eth9", "eth9"), tmp_path) == 0
    assert read_speed(Link(3, "eth0", "eth0", "bridge"), tmp_path) == 0


def reply(datagram: bytes) -> wire.Reply:
    """Returns the reply to request 1 that ``datagram`` holds."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with theirs:
        theirs.send(datagram)
    return wire.Reply(ours, 1)


def test_an_answer_of_the_kernel_with_a_filler_before_the_counters() -> None:
    stats = octets(1, missed=3)
    body = struct.pack("=BxHII", 0, 0, 7, 1) + struct.pack("=HH", 4, 3)
    body += struct.pack("=HH", 4 + len(stats), 1) + stats
    message = struct.pack("=IHHII", 16 + len(body), 92, 2, 1, 0) + body
    done = struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0)
    found = counters.collect_counters(reply(message * 2 + done))
    assert found == {7: stats}
    assert counters.decode_missed(found[7]) == 3
    refused = struct.pack("=IHHIIi", 20, 2, 0, 1, 0, -errno.EPERM)
    with pytest.raises(OSError, match="Operation not permitted"):
        counters.collect_counters(reply(message + refused))


# -- as JSON --------------------------------------------------------------------------------------
def test_the_object_of_the_talk() -> None:
    counted = Counters(1, 2, 3, 4, 5, 6, 7, 8, 9)
    web = ContainerNames("web", pod=Pod("shop-1", "shop"))
    link = Interface(7, "veth7", container_id="abc123" * 8, names=web, counters=counted)
    assert interface_object(link, 1.5, "192.0.2.7") == {
        "timestamp": "1.500000", "ifName": "veth7", "ifIndex": 7,
        "LOCAL_CONTAINER": {"KUBE": {"NAME": "web", "POD": "shop-1", "NS": "shop"}},
        "ifInOctets": 1, "ifInPackets": 2, "ifInErrors": 4, "ifInDrops": 5, "ifOutOctets": 6,
        "ifOutPackets": 7, "ifOutErrors": 8, "ifOutDrops": 9, "EXPORTER_IPV4_ADDRESS": "192.0.2.7",
    }  # fmt: skip
    k8s = interface_object(link, 1.5, "", "K8S")
    assert k8s["LOCAL_CONTAINER"] == {"K8S": {"NAME": "web", "POD": "shop-1", "NS": "shop"}}
    assert "EXPORTER_IPV4_ADDRESS" not in k8s


def test_a_link_that_is_gone_says_so_as_of_its_end() -> None:
    link = Interface(7, "veth7", changed_s=3.25, is_gone=True)
    found = interface_object(link, 9.5, "")
    assert (found["timestamp"], found["ifOperStatus"]) == ("3.250000", "notPresent")


def test_ended_links_are_kept_for_those_who_read() -> None:
    names: dict[str, ContainerNames] = {}
    ended = EndedInterfaces(names.get)
    ended.add(Interface(1, "unread"))
    read = ended.reader()
    assert read() == []
    ended.add(Interface(2, "veth2", container_id="abc"))
    names["abc"] = ContainerNames("web")  # the name came late
    late = ended.reader()
    assert [(one.name, one.names) for one in read()] == [("veth2", ContainerNames("web"))]
    assert read() == late() == []
    for index in range(5000):
        ended.add(Interface(index, f"veth{index}"))
    found = read()
    assert len(found) == 4096
    assert found[-1].index == 4999
    assert ended.untold == 5000 - 4096
    assert len(late()) == 4096
    assert ended.untold == 2 * (5000 - 4096)
    assert read() == late() == []
    assert ended.untold == 2 * (5000 - 4096)


def test_of_two_counters_the_higher_counts() -> None:
    assert highest(octets(1, 20, 3), octets(10, 2, 3, 4)) == octets(10, 20, 3, 4)
    assert highest(b"", octets(1)) == highest(octets(1), b"") == octets(1)
    assert of_other_end(octets(1, 2, 3, 4, 5)) == octets(2, 1, 4, 3)


def test_containers_without_a_pod_and_without_a_name() -> None:
    link = Interface(7, "veth7", container_id="abc123" * 8, names=ContainerNames("web"))
    found = interface_object(link, 0, "")
    assert found["LOCAL_CONTAINER"] == {"DOCKER": {"NAME": "web"}}
    found = interface_object(replace(link, names=None), 0, "")
    assert found["LOCAL_CONTAINER"] == {"DOCKER": {"NAME": "abc123abc123"}}
    assert "LOCAL_CONTAINER" not in interface_object(Interface(1, "lo"), 0, "")
