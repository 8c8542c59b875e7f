"""Flows summed up by container, Pod, process or user, apart as client and as server."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from probe.flow.owner import Owner, OwnerTable
from probe.flow.rows import Rows
from probe.jsonlines.owner_objects import container_members
from probe.units import milliseconds, octets
from probe.view.describe import container_text, pod_text, user_text

#: What an end is counted under; '' for those that are in no container, no Pod, ...
GROUPS: dict[str, Callable[[Owner], str]] = {
    "container": container_text,
    "pod": pod_text,
    "process": lambda owner: owner.process.name,
    "user": user_text,
}
_NONE = "-"


@dataclass(slots=True)
class Mean:
    total: float = 0.0
    count: int = 0

    def add(self, total: float, count: int) -> None:
        self.total += total
        self.count += count

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else 0.0


@dataclass(slots=True)
class AsRole:
    """As client, or as server. Means are over the flows whose socket here measured an RTT."""

    flows: int = 0
    rtt_us: Mean = field(default_factory=Mean)
    rtt_var_us: Mean = field(default_factory=Mean)


@dataclass(slots=True)
class Totals:
    """``owner``: of the first end that was counted here."""

    owner: Owner
    client: AsRole = field(default_factory=AsRole)
    server: AsRole = field(default_factory=AsRole)
    octets_sent: int = 0
    octets_received: int = 0
    packets_sent: int = 0
    packets_received: int = 0

    def add(self, rows: Rows, end: str, other: str) -> None:
        """Flows of LIVE_DTYPE whose ``end`` belongs here."""
        role = self.client if end == "client" else self.server
        role.flows += len(rows)
        measured = rows[rows[f"{end}_rtt_us"] > 0]
        role.rtt_us.add(int(measured[f"{end}_rtt_us"].sum()), len(measured))
        role.rtt_var_us.add(int(measured[f"{end}_rtt_var_us"].sum()), len(measured))
        self.octets_sent += int(rows[f"{end}_octets"].sum())
        self.octets_received += int(rows[f"{other}_octets"].sum())
        self.packets_sent += int(rows[f"{end}_packets"].sum())
        self.packets_received += int(rows[f"{other}_packets"].sum())


#: The most comes first; 'name' from A to Z.
GROUP_ORDERS: dict[str, Callable[[Totals], float]] = {
    "octets": lambda totals: totals.octets_sent + totals.octets_received,
    "sent": lambda totals: totals.octets_sent,
    "received": lambda totals: totals.octets_received,
    "packets": lambda totals: totals.packets_sent + totals.packets_received,
    "flows": lambda totals: totals.client.flows + totals.server.flows,
    "rtt": lambda totals: max(totals.client.rtt_us.value, totals.server.rtt_us.value),
    "name": lambda totals: 0,
}


class Groups:
    """Sums of the ends on this host: of flows that have left the table, and of those in it."""

    def __init__(self, by: str, owners: OwnerTable) -> None:
        self._name = GROUPS[by]
        self._owners = owners
        self._past: dict[str, Totals] = {}

    def leave(self, rows: Rows) -> None:
        """``rows`` (LIVE_DTYPE) will not be in the table any more."""
        self._add(rows, self._past)

    def totals(self, rows: Rows, order: str) -> list[tuple[str, Totals]]:
        """By name; ``rows`` are those in the table, ``order`` one of GROUP_ORDERS."""
        found = copy.deepcopy(self._past)
        self._add(rows, found)
        key = GROUP_ORDERS[order]
        return sorted(found.items(), key=lambda item: (-key(item[1]), item[0]))

    def _add(self, rows: Rows, groups: dict[str, Totals]) -> None:
        for end, other in (("client", "server"), ("server", "client")):
            for mine in _by_owner(rows[rows[f"{end}_is_here"]], f"{end}_owner"):
                owner = self._owners[int(mine[f"{end}_owner"][0])]
                owner = replace(owner, service="")  # that some flows came by, and others not
                totals = groups.setdefault(self._name(owner) or _NONE, Totals(owner))
                totals.add(mine, end, other)


def _by_owner(rows: Rows, column: str) -> list[Rows]:
    """The rows of each owner together."""
    if not len(rows):
        return []
    rows = rows[np.argsort(rows[column], kind="stable")]
    return np.split(rows, np.flatnonzero(np.diff(rows[column])) + 1)


#: Beside the name; all are numbers.
GROUP_COLUMNS = ("as client", "as server", "sent", "received", "rtt as client", "var as client",
                 "rtt as server", "var as server")  # fmt: skip


def group_cells(name: str, totals: Totals) -> tuple[str, ...]:
    """The name and the texts of GROUP_COLUMNS."""
    roles = (totals.client, totals.server)
    times = (mean.value for role in roles for mean in (role.rtt_us, role.rtt_var_us))
    return (
        name, str(totals.client.flows), str(totals.server.flows), octets(totals.octets_sent),
        octets(totals.octets_received), *map(milliseconds, times),
    )  # fmt: skip


def group_object(by: str, name: str, totals: Totals, now_s: float) -> dict[str, object]:
    """As a line of JSON; times are milliseconds."""
    members = container_members(totals.owner, "KUBE") if by == "container" else {}
    roles = {"CLIENT": totals.client, "SERVER": totals.server}
    return {
        "timestamp": f"{now_s:.6f}",
        "EVENT_TYPE": "SUMMARY",
        "BY": by.upper(),
        "NAME": name,
        **({"LOCAL_CONTAINER": members} if members else {}),
        "BYTES_SENT": totals.octets_sent,
        "BYTES_RCVD": totals.octets_received,
        "PKTS_SENT": totals.packets_sent,
        "PKTS_RCVD": totals.packets_received,
        **{
            f"AS_{key}": {
                "FLOWS": role.flows,
                "RTT": round(role.rtt_us.value / 1000, 3),
                "RTT_VARIANCE": round(role.rtt_var_us.value / 1000, 3),
            }
            for key, role in roles.items()
        },
    }
