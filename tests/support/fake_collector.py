"""A source of flows that makes rows up: for what the loop does, and not what the kernel says."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Collection

import numpy as np
import pytest

from probe.flow.batch import FlowBatch
from probe.flow.codes import EventKind, Mark
from probe.flow.columns import EVENT_DTYPE, ROW_DTYPE
from probe.flow.owner import Container, Owner, OwnerTable, Process
from probe.flow.rows import Rows


class FakeSource:
    """``each_read`` connections to port 443 begin and end at each read, each with 3 packets out and
    2 in, owned by a process in container ``CONTAINER``."""

    CONTAINER = "c0" * 32
    tells_events = True

    def __init__(self, each_read: int = 5) -> None:
        self.hooks: list[str] = []
        self.each_read = each_read
        self.snapshot_ns = self.snapshot_cpu_ns = 0
        self.host_netns = 1
        self.made = 0
        self.reads = 0
        self._reader, self._writer = os.pipe()
        self._owner = 0

    def open(self, owners: OwnerTable) -> None:
        owner = Owner(Process(77, "curl", user_name="ada"), container=Container(self.CONTAINER))
        self._owner = owners.add(owner)

    def fileno(self) -> int:
        return self._reader

    def read(self, is_last: bool = False) -> FlowBatch:
        self.reads += 1
        return FlowBatch(self._connections())

    def drain(self) -> FlowBatch:
        """Where ``ring`` was called: connections within the host, both ends of which are over."""
        if not select.select([self._reader], [], [], 0)[0]:
            return FlowBatch(np.zeros(0, ROW_DTYPE))
        os.read(self._reader, 1)
        ends = self._connections()
        peers = ends.copy()
        peers["id"] += np.uint64(2**32)
        for one, other in (("isn_local", "isn_remote"), ("local_port", "remote_port"),
                           ("local_address", "remote_address")):  # fmt: skip
            peers[one], peers[other] = ends[other], ends[one]
        peers["role"] = 2
        return FlowBatch(np.concatenate([ends, peers]))

    def ring(self) -> None:
        """Connections have ended that are not to wait for the next read."""
        os.write(self._writer, b"!")

    def read_events(self) -> Rows:
        events = np.zeros(1, EVENT_DTYPE)
        events["kind"], events["ip_version"], events["protocol"] = EventKind.CONNECT, 4, 6
        events["time_ns"], events["flow_id"] = time.time_ns(), self.made
        events["owner"], events["local_port"] = self._owner, 1
        return events

    def losses(self) -> dict[str, int]:
        return {"flow_ring_full": 0}

    def wants_sweep(self) -> bool:
        return False

    def sweep_owners(self, in_use: Collection[int]) -> list[int]:
        return []

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)

    def _connections(self) -> Rows:
        rows: Rows = np.zeros(self.each_read, ROW_DTYPE)
        numbers = self.made + 1 + np.arange(self.each_read)
        self.made += self.each_read
        rows["id"] = rows["cookie"] = numbers
        rows["owner"], rows["owner_source"], rows["netns"] = self._owner, 1, 1
        rows["mark"], rows["role"], rows["ip_version"], rows["protocol"] = Mark.CLOSED, 1, 4, 6
        rows["local_address"][:, 0], rows["remote_address"][:, 0] = 10, 192
        rows["local_port"], rows["remote_port"] = 1024 + numbers % 60000, 443
        rows["isn_local"], rows["isn_remote"] = numbers, numbers + 2**31
        rows["tx_packets"], rows["rx_packets"] = 3, 2
        rows["tx_octets"], rows["rx_octets"] = 300, 200
        rows["start_ns"] = rows["last_ns"] = time.monotonic_ns()
        return rows


def fake_source(patch: pytest.MonkeyPatch) -> FakeSource:
    """Returns the source that every probe gets that is opened from now on."""
    source = FakeSource()

    def open_fake(_: str, owners: OwnerTable, *__: object) -> FakeSource:
        source.open(owners)
        return source

    patch.setattr("probe.run.wiring.open_source", open_fake)
    return source
