"""The collector of the kernel half alone, without a cache and without export."""

from __future__ import annotations

import os

import numpy as np

from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows
from probe.owners.users import UserNames
from probe.sources.ebpf import EbpfSource
from tests.support.lab.hosts import Host


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
