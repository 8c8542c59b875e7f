"""Writes rows and owners as text for people."""

from __future__ import annotations

import socket
from typing import Any

from probe.flow.label import owner_label
from probe.flow.owner import Owner, OwnerTable
from probe.jsonlines.agent_objects import CONN_STATES
from probe.view.flows import ENDED, PROTOCOLS, End, Flow


def process_text(owner: Owner) -> str:
    """Returns the process, such as 'curl(12)', or '' if it is unknown."""
    return _process(owner.process.name, owner.process.pid)


def parent_text(owner: Owner) -> str:
    return _process(owner.parent.name, owner.parent.pid)


def user_text(owner: Owner) -> str:
    return owner.process.user_name or ("" if owner.process.uid is None else str(owner.process.uid))


def container_text(owner: Owner) -> str:
    return owner_label(owner)


def pod_text(owner: Owner) -> str:
    return f"{owner.pod.namespace}/{owner.pod.name}" if owner.pod.name else ""


def protocol_text(number: int) -> str:
    return PROTOCOLS.get(number, str(number))


def address_text(row: Any, end: str) -> str:
    """Returns ``{end}_address`` of a row as text."""
    octets = row[f"{end}_address"].tobytes()
    if row["ip_version"] == 4:
        return socket.inet_ntop(socket.AF_INET, octets[:4])
    return socket.inet_ntop(socket.AF_INET6, octets)


def endpoint_text(row: Any, end: str) -> str:
    address, port = address_text(row, end), row[f"{end}_port"]
    return f"[{address}]:{port}" if row["ip_version"] == 6 else f"{address}:{port}"


def to_flow(row: Any, owners: OwnerTable) -> Flow:
    """Returns the Flow of a row of LIVE_DTYPE."""
    client, server = (_end(row, end, owners) for end in ("client", "server"))
    state = ENDED.get(int(row["end_reason"])) or CONN_STATES[row["tcp_state"]].lower()
    return Flow(
        protocol_text(int(row["protocol"])), client, server, row["first_ns"] / 1e9,
        row["last_ns"] / 1e9, row["seen_ns"] / 1e9,
        int(row["client_rtt_us"] or row["server_rtt_us"]), int(row["retransmitted"]), state,
        bool(row["has_ended"]),
    )  # fmt: skip


def _end(row: Any, end: str, owners: OwnerTable) -> End:
    owner = owners[int(row[f"{end}_owner"])]
    return End(
        endpoint_text(row, end), int(row[f"{end}_octets"]), int(row[f"{end}_packets"]),
        process_text(owner), user_text(owner), container_text(owner),
    )  # fmt: skip


def _process(name: str, pid: int | None) -> str:
    return f"{name or '?'}({pid})" if pid else name
