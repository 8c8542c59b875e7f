"""Tests translated connections from a router's probe with nfdump and our own collector."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.interop.collectors import Collect, Nfcapd
from tests.support.lab.hosts import Host, inside
from tests.support.meters.actors import actors, translated_hosts
from tests.support.programs import probing

#: The router publishes port 80 and hides its clients.
_RULES = """
table ip translation {
  chain to { type nat hook prerouting priority -100;
    ip daddr 10.79.1.254 tcp dport 80 dnat to 10.79.2.2:7000; }
  chain from { type nat hook postrouting priority 100;
    oifname "r2" tcp dport 7000 masquerade to :40000-60000; }
}
"""
_PUBLISHED, _SERVER = ("10.79.1.254", 80), ("10.79.2.2", 7000)

End = tuple[str, int]


@dataclass
class Observed:
    """The sockets' own and remote addresses at both ends, and the collectors."""

    client: End
    hidden: End
    collect: Collect
    collect9: Collect
    nfcapd: Nfcapd
    nfcapd9: Nfcapd


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("translation")
    with contextlib.ExitStack() as stack:
        hosts = stack.enter_context(translated_hosts("nt", _RULES, "10.79"))
        stack.enter_context(inside("ntr"))
        targets = Collect(folder), Collect(folder, version=9), Nfcapd(folder), Nfcapd(
            folder, version=9
        )  # fmt: skip
        for one in targets:
            stack.enter_context(contextlib.closing(one))
        urls = [word for one in targets for word in ("-e", one.url)]
        probe = stack.enter_context(probing(folder, *urls, "--include", "cidr=10.79.0.0/16"))
        ends = _connect(hosts)
        assert probe.stop() == 0, probe.errors
        for one in targets:
            one.finish()
        collect, collect9, nfcapd, nfcapd9 = targets
        yield Observed(*ends, collect, collect9, nfcapd, nfcapd9)


def _connect(hosts: tuple[Host, Host]) -> tuple[End, End]:
    with actors(*hosts) as (client, server):
        server.do("l = socket.create_server(('', 7000))")
        client.do(f"s = socket.create_connection({_PUBLISHED}, 5)")
        hidden = server.do("c, result = l.accept()")
        name = client.do("result = s.getsockname()")
        client.do("s.sendall(b'q' * 500); s.shutdown(1)")
        server.do("while c.recv(9999): pass\nc.sendall(b'a' * 900); c.close()")
        client.do("while s.recv(9999): pass\ns.close()")
        time.sleep(0.5)
    return (name[0], name[1]), (hidden[0], hidden[1])


def ends_of(record: dict[str, Any]) -> list[End]:
    """Returns source and destination, then both as they left the translator."""
    return [
        (record["sourceIPv4Address"], record["sourceTransportPort"]),
        (record["destinationIPv4Address"], record["destinationTransportPort"]),
        (record["postNATSourceIPv4Address"], record["postNAPTSourceTransportPort"]),
        (record["postNATDestinationIPv4Address"], record["postNAPTDestinationTransportPort"]),
    ]


def expected(observed: Observed) -> list[list[End]]:
    return sorted([
        [observed.client, _PUBLISHED, observed.hidden, _SERVER],
        [_SERVER, observed.hidden, _PUBLISHED, observed.client],
    ])  # fmt: skip


@pytest.mark.parametrize("version", [10, 9])
def test_records_tell_what_the_other_ends_socket_sees(observed: Observed, version: int) -> None:
    collector = observed.collect9 if version == 9 else observed.collect
    assert 40000 <= observed.hidden[1] <= 60000
    assert sorted(map(ends_of, collector.records())) == expected(observed)


@pytest.mark.parametrize("version", [10, 9])
def test_nfdump_shows_the_translation(observed: Observed, version: int) -> None:
    collector = observed.nfcapd9 if version == 9 else observed.nfcapd
    found = []
    for line in collector.nfdump(
        "-q", "-N", "-o", "fmt:%sa;%sp;%da;%dp;%nsa;%nsp;%nda;%ndp", "proto tcp"
    ):
        words = re.split(r"\s*;\s*", line.strip())
        found.append([(words[at], int(words[at + 1])) for at in range(0, 8, 2)])
    assert sorted(found) == expected(observed)
