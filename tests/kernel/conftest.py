"""Fixtures for tests against the real kernel: they need root, and fail without it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from lab import Host, two_hosts
from metering import MeteringProcess, metering, translated_hosts

from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows
from probe.owners import own_files
from probe.owners.users import UserNames
from probe.sources.ebpf import EbpfSource

#: To the address of the router: to the server, which sees the router as its client.
NAT = """
table ip translation {
  chain to { type nat hook prerouting priority -100;
    ip daddr 10.77.1.254 meta l4proto { tcp, udp } dnat to 10.77.2.2:7000; }
  chain from { type nat hook postrouting priority 100;
    oifname "r2" meta l4proto { tcp, udp } masquerade to :40000-41000; }
}
"""


class Meter:
    """A collector and the rows that it has read, per namespace."""

    def __init__(self) -> None:
        self.owners = OwnerTable()
        self.collector = EbpfSource(self.owners, UserNames())
        self.collector.open()
        self.rows: Rows = self.collector.read().rows[:0]

    def read(self) -> Rows:
        """One more read, added to ``rows``."""
        fresh = self.collector.read().rows
        self.rows = np.concatenate([self.rows, fresh])
        return fresh

    def of(self, host: Host, protocol: int) -> Rows:
        """All rows of flow ends in the host's namespace."""
        inode = os.stat(f"/run/netns/{host.name}").st_ino
        rows = self.rows
        wanted = (rows["netns_inode"] == inode) & (rows["protocol"] == protocol)
        found: Rows = rows[wanted]
        return found

    def forget(self) -> None:
        self.read()
        self.rows = self.rows[:0]


@pytest.fixture(autouse=True)
def _files_of_containers_have_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is read too late is none, which no test of ours means."""
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
    """With the addresses of ``pair``."""
    with two_hosts("sg") as found:
        yield found


@pytest.fixture(scope="module")
def translated() -> Iterator[tuple[Host, Host]]:
    with translated_hosts("sn", NAT) as found:
        yield found
