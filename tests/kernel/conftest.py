"""Fixtures for tests against the real kernel: they need root, and fail without it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from probe.owners import own_files
from tests.support.lab.hosts import Host, two_hosts
from tests.support.meters.actors import MeteringProcess, metering, translated_hosts
from tests.support.meters.ebpf import Meter

#: Rules that translate the router's address to the server, which sees the router as its client.
NAT = """
table ip translation {
  chain to { type nat hook prerouting priority -100;
    ip daddr 10.77.1.254 meta l4proto { tcp, udp } dnat to 10.77.2.2:7000; }
  chain from { type nat hook postrouting priority 100;
    oifname "r2" meta l4proto { tcp, udp } masquerade to :40000-41000; }
}
"""


@pytest.fixture(autouse=True)
def _files_of_containers_have_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives files of containers time, because a name that is read too late is none."""
    monkeypatch.setattr(own_files, "_PATIENCE_S", 120.0)


@pytest.fixture
def meter() -> Iterator[Meter]:
    assert os.geteuid() == 0, "the kernel tests load eBPF: run them as root"
    found = Meter()
    yield found
    found.collector.close()


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as found:
        yield found


@pytest.fixture
def process() -> Iterator[MeteringProcess]:
    with metering() as found:
        yield found


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    with two_hosts("se") as found:
        yield found


@pytest.fixture(scope="module")
def other_pair() -> Iterator[tuple[Host, Host]]:
    """Yields two hosts with the addresses of ``pair``."""
    with two_hosts("sg") as found:
        yield found


@pytest.fixture(scope="module")
def translated() -> Iterator[tuple[Host, Host]]:
    with translated_hosts("sn", NAT) as found:
        yield found
