"""Sums flows up by container, Pod, process or user, with counts for each role."""

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

#: The name under which an end is counted; '' for an end without a container, a Pod, ...
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
    """The sums of one role, client or server.

    The means are over the flows whose socket on this host measured an RTT.
    """

    flows: int = 0
    rtt_us: Mean = field(default_factory=Mean)
    rtt_var_us: Mean = field(default_factory=Mean)


@dataclass(slots=True)
class Totals:
    """The sums of one group. ``owner`` is that of the first end that was counted in it."""

    owner: Owner
    client: AsRole = field(default_factory=AsRole)
    server: AsRole = field(default_factory=AsRole)
    octets_sent: int = 0
    octets_received: int = 0
    packets_sent: int = 0
    packets_received: int = 0

    def add(self, rows: Rows, end: str, other: str) -> None:
        """Adds flows (LIVE_DTYPE) whose ``end`` belongs to this group."""
        role = self.client if end == "client" else self.server
        role.flows += len(rows)
        measured = rows[rows[f"{end}_rtt_us"] > 0]
        role.rtt_us.add(int(measured[f"{end}_rtt_us"].sum()), len(measured))
        role.rtt_var_us.add(int(measured[f"{end}_rtt_var_us"].sum()), len(measured))
        self.octets_sent += int(rows[f"{end}_octets"].sum())
        self.octets_received += int(rows[f"{other}_octets"].sum())
        self.packets_sent += int(rows[f"{end}_packets"].sum())
        self.packets_received += int(rows[f"{other}_packets"].sum())


#: The group with the most comes first; 'name' sorts from A to Z.
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
    """The sums over the ends on this host, of all flows of the run.

    Flows that have left the table are summed up here. Flows in the table are added on demand.
    """

    def __init__(self, by: str, owners: OwnerTable) -> None:
        self._name = GROUPS[by]
        self._owners = owners
        self._past: dict[str, Totals] = {}

    def leave(self, rows: Rows) -> None:
        """Adds ``rows`` (LIVE_DTYPE) that leave the table."""
        self._add(rows, self._past)

    def totals(self, rows: Rows, order: str) -> list[tuple[str, Totals]]:
        """Returns names and totals, with the ``rows`` of the table, in an order of GROUP_ORDERS."""
        found = copy.deepcopy(self._past)
        self._add(rows, found)
        key = GROUP_ORDERS[order]
        return sorted(found.items(), key=lambda item: (-key(item[1]), item[0]))

    def _add(self, rows: Rows, groups: dict[str, Totals]) -> None:
        for end, other in (("client", "server"), ("server", "client")):
            for mine in _by_owner(rows[rows[f"{end}_is_here"]], f"{end}_owner"):
                owner = self._owners[int(mine[f"{end}_owner"][0])]
                owner = replace(owner, service="")  # flows of one group may have different Services
                totals = groups.setdefault(self._name(owner) or _NONE, Totals(owner))
                totals.add(mine, end, other)


def _by_owner(rows: Rows, column: str) -> list[Rows]:
    """Returns the rows of each owner as an array of their own."""
    if not len(rows):
        return []
    rows = rows[np.argsort(rows[column], kind="stable")]
    return np.split(rows, np.flatnonzero(np.diff(rows[column])) + 1)


#: The columns after the name, all of them numbers.
GROUP_COLUMNS = ("as client", "as server", "sent", "received", "rtt as client", "var as client",
                 "rtt as server", "var as server")  # fmt: skip


def group_cells(name: str, totals: Totals) -> tuple[str, ...]:
    """Returns the name and the texts of GROUP_COLUMNS."""
    roles = (totals.client, totals.server)
    times = (mean.value for role in roles for mean in (role.rtt_us, role.rtt_var_us))
    return (
        name, str(totals.client.flows), str(totals.server.flows), octets(totals.octets_sent),
        octets(totals.octets_received), *map(milliseconds, times),
    )  # fmt: skip


def group_object(by: str, name: str, totals: Totals, now_s: float) -> dict[str, object]:
    """Returns the object for a line of JSON. Its times are milliseconds."""
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
