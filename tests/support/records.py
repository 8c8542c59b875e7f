"""Makes flow records and owners for tests of what follows the flow cache."""

from __future__ import annotations

import numpy as np

from probe.figures import Figures
from probe.flow.columns import RECORD_DTYPE
from probe.flow.owner import Container, Owner, OwnerTable, Process
from probe.flow.rows import Rows

#: 2026-01-02 03:04:05 UTC, in the units that records and messages use.
NOW_S = 1_767_323_045.0
NOW_NS = int(NOW_S) * 1_000_000_000


class Metering:
    """The figures of a probe that has done nothing, for options."""

    def figures(self) -> Figures:
        return Figures()


def owner_table(count: int = 4) -> OwnerTable:
    """Returns a table with owners 1 to ``count``, all different."""
    table = OwnerTable()
    for number in range(1, count + 1):
        table.add(owner(number))
    return table


def owner(number: int) -> Owner:
    return Owner(
        Process(
            1000 + number,
            f"worker-{number}",
            f"/usr/bin/worker-{number}",
            path_source="walked",
            uid=number,
            gid=100 + number,
            user_name=f"user-{number}",
            command_line=f"worker --number {number}",
        ),
        parent=Process(number, "init", "/sbin/init"),
        container=Container(
            f"{number:012x}",
            name=f"web-{number}",
            image=f"nginx:{number}",
            compose_project="shop",
            compose_service="web",
        ),
        unit=f"worker@{number}.service",
    )


def flow_records(count: int, owners: int = 4, ip_version: int = 4) -> Rows:
    """Returns ``count`` different flows between ``owners`` owners; values follow from the row."""
    rows = np.arange(count)
    records = np.zeros(count, RECORD_DTYPE)
    records["flow_id"] = rows + 1
    records["first_ns"] = NOW_NS - 5_000_000_000 + rows * 1_000_000
    records["last_ns"] = records["first_ns"] + 1_500_000_000
    records["octets"] = 1000 + rows
    records["packets"] = 1 + rows % 7
    for column, network in (("source_address", 10), ("destination_address", 192)):
        records[column][:, 0] = network
        records[column][:, 2] = rows >> 8
        records[column][:, 3] = rows & 255
        if ip_version == 6:
            records[column][:, 15] = 1
    records["source_port"] = 1024 + rows % 60000
    records["destination_port"] = 443
    if owners:
        records["source_owner"] = 1 + rows % owners
        records["destination_owner"] = 1 + (rows // owners) % owners
    records["protocol"] = np.where(rows % 3 == 0, 17, 6)
    records["tcp_state"] = np.where(records["protocol"] == 6, 1 + rows % 11, 0)
    records["ip_version"] = ip_version
    records["flow_direction"] = 1
    records["biflow_direction"] = 1 + rows % 2
    records["end_reason"] = 1 + rows % 5
    records["tcp_flags"] = np.where(records["protocol"] == 6, 0x1B, 0)
    records["dscp"] = 46
    records["rtt_us"] = 250 + rows
    records["rtt_var_us"] = 25
    records["retransmitted"] = rows % 3
    records["lost"] = rows % 2
    records["source_netns"] = 1
    records["destination_netns"] = 2
    records["source_netns_inode"] = 4026531840
    records["destination_netns_inode"] = 4026532000
    records["egress_interface"] = 2
    records["source_owner_source"] = 1
    records["destination_owner_source"] = 2
    records["estimated"] = rows % 2
    return records
