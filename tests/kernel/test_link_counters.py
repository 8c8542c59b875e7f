"""Counters of real interfaces against what ``ip`` shows, with the names of real containers."""

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
from docker_lab import IMAGE, docker_daemon
from lab import Host, inside, run, two_hosts

from probe.interfaces.links import open_route, read_interface
from probe.interfaces.names import InterfaceList
from probe.interfaces.table import Link
from tests.interop.programs import ROOT, wait_until

_STATES = {"UP": 1, "DOWN": 2, "UNKNOWN": 1, "LOWERLAYERDOWN": 7}
_NOBODY = 65534


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    with two_hosts("sx") as found:
        yield found


def ip(namespace: str, *command: str) -> str:
    return run("ip", "-n", namespace, *command).stdout


def send(here: Host, there: Host, count: int) -> None:
    """Datagrams to where nobody listens."""
    with inside(here.name):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        for _ in range(count):
            with contextlib.suppress(ConnectionRefusedError):
                sender.sendto(bytes(100), (str(there.four), 9))


def read(known: InterfaceList, namespace: str) -> dict[str, Link]:
    with inside(namespace):
        return {link.name: link for link in known.links.read()}


def shown(namespace: str) -> dict[str, dict[str, Any]]:
    return {one["ifname"]: one for one in json.loads(ip(namespace, "-s", "-d", "-j", "link"))}


def assert_equal(link: Link, one: dict[str, Any]) -> None:
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


def _agreeing(known: InterfaceList, namespace: str) -> dict[str, Link]:
    """What ``ip`` showed both before and after: a neighbour's packet may come at any time."""
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
        # the kernel tells of carriers at most once a second
        wait_until(
            lambda: read(known, here.name)[here.device].inner_name == "inner0", "the name inside"
        )
        ip(here.name, "link", "set", here.device, "down")
        down = read(known, here.name)[here.device]
        assert (down.is_admin_up, down.oper_status) == (False, 2)
        assert down.changed_s > link.since_s == down.since_s
        with inside(here.name), open_route() as route:
            assert read_interface(route, link.peer, link.peer_nsid).name == "inner0"
            with pytest.raises(OSError, match="Invalid argument"):
                read_interface(route, link.peer, 4711)
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


# -- sockflow interfaces --------------------------------------------------------------------------
def sockflow_in(host: Host, *arguments: str, user: int = 0) -> str:
    command = ["nsenter", f"--net=/run/netns/{host.name}",
               "setpriv", f"--reuid={user}", "--clear-groups",
               sys.executable, "-m", "probe", "interfaces", *arguments]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_table_of_a_host_with_docker(pair: tuple[Host, Host], tmp_path: Path) -> None:
    """Who is behind the veth, by name, in the table and as JSON; and the counters are ip's."""
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
