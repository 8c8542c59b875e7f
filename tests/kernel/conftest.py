"""Fixtures for tests against the real kernel: they need root, and fail without it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from lab import Host, two_hosts

from probe.collectors.ebpf import EbpfCollector
from probe.flow.batch import Rows
from probe.flow.owner import OwnerTable


class Meter:
    """A collector and the rows that it has read, per namespace."""

    def __init__(self) -> None:
        self.owners = OwnerTable()
        self.collector = EbpfCollector(self.owners, user_name=str)
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
