"""Tests counters of real interfaces against ``ip``, with the names of real containers."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from probe.interfaces.interface import Interface
from probe.interfaces.names import InterfaceList
from probe.netlink.rtnetlink import open_route, read_link
from tests.support.lab.docker import IMAGE, docker_daemon
from tests.support.lab.hosts import Host, inside, run, two_hosts
from tests.support.programs import ROOT, Program, wait_until

_STATES = {"UP": 1, "DOWN": 2, "UNKNOWN": 1, "LOWERLAYERDOWN": 7}
_NOBODY = 65534


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    with two_hosts("sx") as found:
        yield found


def ip(namespace: str, *command: str) -> str:
    return run("ip", "-n", namespace, *command).stdout


def send(here: Host, there: Host, count: int) -> None:
    """Sends datagrams to a port without a listener."""
    with inside(here.name):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        for _ in range(count):
            with contextlib.suppress(ConnectionRefusedError):
                sender.sendto(bytes(100), (str(there.four), 9))


def read(known: InterfaceList, namespace: str) -> dict[str, Interface]:
    with inside(namespace):
        return {link.name: link for link in known.table.read()}


def shown(namespace: str) -> dict[str, dict[str, Any]]:
    return {one["ifname"]: one for one in json.loads(ip(namespace, "-s", "-d", "-j", "link"))}


def assert_equal(link: Interface, one: dict[str, Any]) -> None:
    got, sent, counters = one["stats64"]["rx"], one["stats64"]["tx"], link.counters
    assert (counters.in_octets, counters.in_packets) == (got["bytes"], got["packets"])
    assert (counters.in_errors, counters.in_multicast) == (got["errors"], got["multicast"])
    assert counters.in_discards == got["dropped"] + got.get("missed_errors", 0)
    assert (counters.out_octets, counters.out_packets) == (sent["bytes"], sent["packets"])
    assert (counters.out_errors, counters.out_discards) == (sent["errors"], sent["dropped"])
    assert (link.index, link.mtu) == (one["ifindex"], one["mtu"])
    assert link.address.hex(":") == one["address"]
    assert link.is_admin_up == ("UP" in one["flags"])
    assert link.oper_status == _STATES[one["operstate"]] or not link.is_admin_up
    assert link.is_promiscuous == (one["promiscuity"] > 0)
    assert link.alias == one.get("ifalias", "")
    assert link.kind == one.get("linkinfo", {}).get("info_kind", "")


def test_everything_is_as_ip_shows_it(pair: tuple[Host, Host]) -> None:
    here, there = pair
    ip(here.name, "link", "add", "bridge0", "type", "bridge")
    ip(here.name, "link", "add", "port0", "type", "veth", "peer", "name", "port1")
    ip(here.name, "link", "set", "port0", "up", "master", "bridge0", "mtu", "1300", "alias", "Büro")
    send(here, there, 3)
    known = InterfaceList()
    try:
        found = _agreeing(known, here.name)
        assert found[here.device].counters.in_packets >= 3
        assert found["port0"].is_promiscuous
        assert found["port0"].master == found["bridge0"].index
        assert found["port0"].peer == found["port1"].index
        assert found["port0"].peer_nsid == -1
        assert {name: found[name].type for name in ("lo", "bridge0", "port0")} == {
            "lo": 24, "bridge0": 209, "port0": 6,
        }  # fmt: skip
    finally:
        known.close()


def _agreeing(known: InterfaceList, namespace: str) -> dict[str, Interface]:
    """Returns a reading that ``ip`` confirms before and after.

    Packets of neighbours may come at any time.
    """
    for _ in range(50):
        before = shown(namespace)
        found = read(known, namespace)
        if before == shown(namespace):
            break
    assert found.keys() == before.keys()
    for name, link in found.items():
        assert_equal(link, before[name])
    return found


def test_the_name_inside_is_found_without_entering(pair: tuple[Host, Host]) -> None:
    here, there = pair
    known = InterfaceList()
    try:
        link = read(known, here.name)[here.device]
        assert (link.inner_name, link.kind) == (there.device, "veth")
        ip(there.name, "link", "set", there.device, "down")
        ip(there.name, "link", "set", there.device, "name", "inner0")
        ip(there.name, "link", "set", "inner0", "up")
        # the kernel reports carriers at most once a second
        wait_until(
            lambda: read(known, here.name)[here.device].inner_name == "inner0", "the name inside"
        )
        ip(here.name, "link", "set", here.device, "down")
        down = read(known, here.name)[here.device]
        assert (down.is_admin_up, down.oper_status) == (False, 2)
        assert down.changed_s > link.since_s == down.since_s
        with inside(here.name), open_route() as route:
            assert read_link(route, link.peer, link.peer_nsid).name == "inner0"
            with pytest.raises(OSError, match="Invalid argument"):
                read_link(route, link.peer, 4711)
    finally:
        known.close()


def test_an_index_that_returns_for_another_device(pair: tuple[Host, Host]) -> None:
    here, _ = pair
    known = InterfaceList()
    make = ("link", "add", "one", "index", "77", "type", "veth", "peer", "name", "two")
    try:
        ip(here.name, *make)
        before = read(known, here.name)["one"]
        ip(here.name, "link", "del", "one")
        ip(here.name, *make)
        after = read(known, here.name)["one"]
        assert (before.index, after.index) == (77, 77)
        assert after.since_s > before.since_s
        ip(here.name, "link", "del", "one")
        assert "one" not in read(known, here.name)
    finally:
        known.close()


def test_a_thousand_interfaces_and_more_than_one_datagram(pair: tuple[Host, Host]) -> None:
    here, there = pair
    pairs = range(300)
    run("ip", "-n", here.name, "-b", "-", input="".join(
        f"link add m{n} type veth peer name n{n} netns {there.name}\n" for n in pairs
    ))  # fmt: skip
    known = InterfaceList()
    try:
        found = read(known, here.name)
        assert {f"m{n}": f"n{n}" for n in pairs} == {
            name: link.inner_name for name, link in found.items() if name[0] == "m"
        }
        again = read(known, here.name)
        assert all(again[f"m{n}"] is found[f"m{n}"] for n in pairs)
    finally:
        known.close()


# -- the last counters -----------------------------------------------------------------------------
def frames(namespace: str, device: str, count: int) -> None:
    """Sends Ethernet frames of an experimental protocol."""
    with inside(namespace):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with raw:
        raw.bind((device, 0))
        for _ in range(count):
            raw.send(b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x88\xb5" + bytes(86))


def brief_pair(here: Host, there: Host, name: str, *options: str) -> None:
    """Makes a veth without traffic of the kernel; its other end is eth9 in ``there``."""
    ip(here.name, "link", "add", name, *options, "type", "veth", "peer", "name", "eth9",
       "netns", there.name)  # fmt: skip
    for namespace, device in ((here.name, name), (there.name, "eth9")):
        ip(namespace, "link", "set", device, "up", "arp", "off", "addrgenmode", "none")


def refresh(known: InterfaceList, namespace: str) -> None:
    with inside(namespace):
        known.refresh()


@pytest.mark.parametrize("deleted_by", ["host", "container"])
def test_a_veth_that_lives_between_two_readings_is_told_once(
    pair: tuple[Host, Host], deleted_by: str
) -> None:
    """It has all packets of its container, whichever end is deleted.

    All veths have the same index.
    """
    here, there = pair
    known = InterfaceList()
    try:
        refresh(known, here.name)
        ended, other = known.table.ended.reader(), known.table.ended.reader()
        for number in range(5):
            brief_pair(here, there, f"brief{number}", "index", "77")
            frames(there.name, "eth9", 10 + number)
            frames(here.name, f"brief{number}", 20 + number)
            ip(here.name, "link", "set", f"brief{number}", "alias", f"number {number}")
            if deleted_by == "host":
                ip(here.name, "link", "del", f"brief{number}")
            else:
                ip(there.name, "link", "del", "eth9")
        refresh(known, here.name)
        found = ended()
        assert [(link.name, link.index, link.alias) for link in found] == [
            (f"brief{number}", 77, f"number {number}") for number in range(5)
        ]
        for number, link in enumerate(found):
            assert link.counters.in_packets - 10 - number in range(4)
            assert link.counters.out_packets - 20 - number in range(4)
            assert link.counters.in_octets >= 100 * (10 + number)
            assert (link.is_gone, link.is_admin_up, link.oper_status) == (True, False, 6)
        assert ended() == []
        assert other() == found
        assert "brief0" not in read(known, here.name)
    finally:
        known.close()


def test_the_last_counters_are_no_lower_than_those_told_before(pair: tuple[Host, Host]) -> None:
    """A renamed veth has its latest name. Packets after the last reading are added."""
    here, there = pair
    known = InterfaceList()
    try:
        refresh(known, here.name)
        ended = known.table.ended.reader()
        brief_pair(here, there, "before")
        frames(there.name, "eth9", 30)
        told = read(known, here.name)["before"]
        assert told.counters.in_packets >= 30
        ip(here.name, "link", "set", "before", "down")
        ip(here.name, "link", "set", "before", "name", "after")
        ip(here.name, "link", "set", "after", "up")
        frames(here.name, "after", 7)
        ip(here.name, "link", "del", "after")
        refresh(known, here.name)
        (last,) = ended()
        assert (last.name, last.index, last.since_s) == ("after", told.index, told.since_s)
        assert last.counters.in_packets >= told.counters.in_packets
        assert last.counters.out_packets >= 7
    finally:
        known.close()


def test_a_link_that_moves_away_is_told_and_one_in_passing_is_not(pair: tuple[Host, Host]) -> None:
    """Docker makes both ends here and moves one into the container.

    It moves that end back to delete it.
    """
    here, there = pair
    known = InterfaceList()
    try:
        refresh(known, here.name)
        ended = known.table.ended.reader()
        ip(here.name, "link", "add", "docked", "type", "veth", "peer", "name", "inner")
        ip(here.name, "link", "set", "inner", "netns", there.name)
        ip(here.name, "link", "set", "docked", "up")
        ip(there.name, "link", "set", "inner", "up")
        frames(there.name, "inner", 12)
        refresh(known, here.name)
        assert ended() == []
        ip(there.name, "link", "set", "inner", "netns", here.name)
        ip(here.name, "link", "del", "docked")
        refresh(known, here.name)
        (docked,) = ended()
        assert docked.name == "docked"
        assert docked.counters.in_packets >= 12

        brief_pair(here, there, "moving")
        frames(there.name, "eth9", 9)
        assert read(known, here.name)["moving"].counters.in_packets >= 9
        ip(here.name, "link", "set", "moving", "netns", there.name)
        refresh(known, here.name)
        (moved,) = ended()
        assert (moved.name, moved.counters.in_packets >= 9) == ("moving", True)
    finally:
        known.close()


# -- sockflow interfaces --------------------------------------------------------------------------
def sockflow_in(host: Host, *arguments: str, user: int = 0) -> str:
    command = ["nsenter", f"--net=/run/netns/{host.name}",
               "setpriv", f"--reuid={user}", "--clear-groups",
               sys.executable, "-m", "probe", "interfaces", *arguments]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_table_of_a_host_with_docker(pair: tuple[Host, Host], tmp_path: Path) -> None:
    """Table and JSON name the container behind the veth, and have the counters of ip."""
    _, there = pair
    with docker_daemon(there, tmp_path) as docker:
        container_id = docker("run", "-d", "--name", "web", IMAGE, "sleep", "300")
        (veth,) = (one for name, one in shown(there.name).items() if name.startswith("veth"))
        text = sockflow_in(there, "--docker", docker.url, "--interval", "0.1")
        (row,) = (line.split() for line in text.splitlines() if veth["ifname"] in line)
        assert row[:5] == [str(veth["ifindex"]), veth["ifname"], "eth0", "web", "up"]
        objects = list(map(json.loads, sockflow_in(
            there, "--json", "--docker", docker.url
        ).splitlines()))  # fmt: skip
        (found,) = (one for one in objects if one["ifName"] == veth["ifname"])
        assert found["LOCAL_CONTAINER"] == {"DOCKER": {"NAME": "web"}}
        assert found["ifIndex"] == veth["ifindex"]
        assert found["ifInOctets"] >= veth["stats64"]["rx"]["bytes"]
        nameless = sockflow_in(there, "--json", "--no-docker").splitlines()
        (found,) = (one for one in map(json.loads, nameless) if one["ifName"] == veth["ifname"])
        assert found["LOCAL_CONTAINER"] == {"DOCKER": {"NAME": container_id[:12]}}


def test_the_last_counters_of_brief_containers(pair: tuple[Host, Host], tmp_path: Path) -> None:
    """Each of Docker's containers has one line, however short it ran.

    The ends that Docker moves have none.
    """
    _, there = pair
    with docker_daemon(there, tmp_path) as docker:
        docker("run", "--rm", IMAGE, "true")  # the first run is slow
        path = tmp_path / "lines"
        command = ["nsenter", f"--net=/run/netns/{there.name}", sys.executable, "-m", "probe",
                   "run", "-e", f"json://{path}", "--interface-interval", "3600",
                   "--docker", docker.url]  # fmt: skip
        probe = Program(command, tmp_path, "probe")
        try:
            wait_until(lambda: path.exists() and '"ifName":' in path.read_text(), "counters")
            for number in range(4):
                docker("run", "--rm", "--name", f"brief-{number}", IMAGE,
                       "ping", "-c", "3", "-i", "0.1", "172.31.250.1")  # fmt: skip
            wait_until(lambda: path.read_text().count("notPresent") >= 4, "four that are gone")
            assert probe.stop() == 0, probe.errors
        finally:
            probe.end()
        lines = map(json.loads, path.read_text().splitlines())
        gone = [one for one in lines if one.get("ifOperStatus") == "notPresent"]
    assert len(gone) == len({one["ifName"] for one in gone}) == 4
    assert [one["LOCAL_CONTAINER"] for one in gone] == [
        {"DOCKER": {"NAME": f"brief-{number}"}} for number in range(4)
    ]
    for one in gone:
        assert one["ifInPackets"] >= 4, "ARP, and three requests"
        assert one["ifOutPackets"] >= 4
        assert one["ifInOctets"] >= 42 + 3 * 98


def test_any_user_may_read_the_counters(pair: tuple[Host, Host]) -> None:
    here, _ = pair
    lines = sockflow_in(here, "--json", "--no-docker", user=_NOBODY).splitlines()
    found = {one["ifName"]: one for one in map(json.loads, lines)}
    wanted = shown(here.name)
    assert found.keys() == wanted.keys()
    assert found[here.device]["ifOutPackets"] <= wanted[here.device]["stats64"]["tx"]["packets"]


def test_watching_shows_rates(pair: tuple[Host, Host]) -> None:
    here, there = pair
    ended = threading.Event()

    def go_on() -> None:
        while not ended.is_set():
            send(here, there, 10)
            time.sleep(0.01)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        text = sockflow_in(here, "--watch", "--no-docker", "--interval", "0.5", "--duration", "1.5")
    finally:
        ended.set()
        thread.join()
    rows = [line.split() for line in text.splitlines() if here.device in line]
    assert len(rows) >= 2
    assert all(row[6:8] != ["0", "0"] for row in rows), rows
