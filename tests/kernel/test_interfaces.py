"""Tests names and aliases against what ``ip`` sets and shows, in the tests' own namespaces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe.interfaces.names import InterfaceList
from probe.netlink.rtnetlink import Link, read_links
from tests.support.lab.hosts import inside, run

NAME = "sxa"
UMLAUT = "Büro, Übergabe"


@pytest.fixture
def namespace() -> Iterator[str]:
    run("ip", "netns", "add", NAME)
    try:
        yield NAME
    finally:
        run("ip", "netns", "del", NAME)


def ip(*command: str) -> None:
    run("ip", "-n", NAME, *command)


def add(name: str, alias: str = "") -> None:
    ip("link", "add", name, "type", "veth", "peer", "name", f"{name}-peer")
    if alias:
        ip("link", "set", name, "alias", alias)


def described() -> dict[str, str]:
    with inside(NAME):
        return {found.name: found.description for found in read_links()}


def test_the_hosts_interfaces_are_those_of_ip() -> None:
    shown = json.loads(run("ip", "-j", "link").stdout)
    wanted = [
        Link(one["ifindex"], one["ifname"], one.get("ifalias", one["ifname"])) for one in shown
    ]
    assert read_links() == sorted(wanted, key=lambda interface: interface.index)
    assert Link(1, "lo", "lo") in wanted


def test_an_alias_is_the_description(namespace: str) -> None:
    """It belongs to our own namespace, whatever /sys shows, and has at most 255 octets."""
    add("uplink", UMLAUT)
    add("long", "x" * 255)
    assert described() == {
        "lo": "lo", "uplink": UMLAUT, "uplink-peer": "uplink-peer",
        "long": "x" * 255, "long-peer": "long-peer",
    }  # fmt: skip
    assert not Path("/sys/class/net/uplink").exists()


def test_an_alias_that_is_no_text(namespace: str) -> None:
    add("odd")
    run("bash", "-c", f"ip -n {NAME} link set odd alias $'a\\xffb'")
    assert described()["odd"] == "a\ufffdb"


def test_more_than_one_datagram_holds(namespace: str) -> None:
    names = [f"many{number}" for number in range(60)]
    for name in names:
        add(name)
    found = described()
    assert set(names) <= set(found)
    assert len(found) == 121


def test_changes_are_noticed(namespace: str) -> None:
    known = InterfaceList()
    with inside(NAME):
        assert known.refresh()
    assert [found.name for found in known.interfaces] == ["lo"]
    try:
        for change, wanted in (
            (("link", "add", "one", "type", "veth", "peer", "name", "two"), {"one", "two"}),
            (("link", "set", "one", "name", "uno"), {"uno", "two"}),
            (("link", "set", "uno", "up", "alias", "first"), {"first", "two"}),
            (("link", "set", "uno", "alias", "last"), {"last", "two"}),
            (("link", "del", "two"), set()),
        ):
            with inside(NAME):
                assert not known.refresh()
                ip(*change)
                assert known.refresh()
                assert not known.refresh()
            assert {found.description for found in known.interfaces} == {"lo", *wanted}
    finally:
        known.close()


def test_what_is_no_change_of_the_list(namespace: str) -> None:
    """An interface that goes up causes an event, but has the same name afterwards."""
    add("one")
    known = InterfaceList()
    try:
        with inside(NAME):
            known.refresh()
            before = known.interfaces
            ip("link", "set", "one", "up")
            assert not known.refresh()
        assert known.interfaces == before
    finally:
        known.close()


def test_more_changes_than_the_socket_holds(namespace: str) -> None:
    known = InterfaceList()
    try:
        with inside(NAME):
            known.refresh()
            add("one")
            for _ in range(400):
                ip("link", "set", "one", "mtu", "1400")
                ip("link", "set", "one", "mtu", "1500")
            assert known.refresh()
            assert not known.refresh()
        assert "one" in {found.name for found in known.interfaces}
    finally:
        known.close()
