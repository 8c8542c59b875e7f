"""Flows, events and sockets as columns that tell of a local and a remote end.

LOCAL is the end whose socket was metered; where both were, it is the client (of a biflow: its
source). Names are those of EVENT_DTYPE, ``tx`` being what the local end sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.flow.biflow import pair_directions
from probe.flow.codes import EventKind, Role
from probe.flow.columns import BIFLOW_DTYPE
from probe.flow.rows import Rows

Column = NDArray[Any]
Columns = Mapping[str, Column]

_FLIPPED = np.array([Role.UNKNOWN, Role.RESPONDER, Role.INITIATOR], np.uint8)
_OF_FLOW = (
    "flow_id", "protocol", "ip_version", "tcp_state", "rtt_us", "rtt_var_us", "end_reason",
    "translated",
)  # fmt: skip
_OF_ENDS = ("address", "port", "owner", "netns_inode")
_COUNTED = ("octets", "packets", "retransmitted", "lost")
_GAUGES = ("unacknowledged", "pacing_rate", "delivery_rate", "congestion_window")


def flow_columns(records: Rows) -> dict[str, Column]:
    """``records`` (RECORD_DTYPE, or BIFLOW_DTYPE), both directions of a flow in one row."""
    rows = records if records.dtype == BIFLOW_DTYPE else pair_directions(records)
    turned = (rows["source_netns"] == 0) & (rows["destination_netns"] != 0)
    found: dict[str, Column] = {name: rows[name] for name in _OF_FLOW}

    def pick(local: str, remote: str) -> Column:
        """The first of the two where the source is the local end, else the second."""
        first, second = rows[local], rows[remote]
        return np.where(turned[:, None] if first.ndim > 1 else turned, second, first)

    for name in _OF_ENDS:
        found[f"local_{name}"] = pick(f"source_{name}", f"destination_{name}")
        found[f"remote_{name}"] = pick(f"destination_{name}", f"source_{name}")
    for name in ("address", "port"):
        found[f"nat_local_{name}"] = pick(f"nat_source_{name}", f"nat_destination_{name}")
        found[f"nat_remote_{name}"] = pick(f"nat_destination_{name}", f"nat_source_{name}")
    for name in _COUNTED:
        found[f"tx_{name}"] = pick(name, f"reverse_{name}")
        found[f"rx_{name}"] = pick(f"reverse_{name}", name)
    for name in _GAUGES:
        found[name] = pick(name, f"reverse_{name}")
    found["input"] = pick("ingress_interface", "egress_interface")
    found["output"] = pick("egress_interface", "ingress_interface")
    found["first_ns"] = np.minimum(rows["first_ns"], rows["reverse_first_ns"])
    found["last_ns"] = found["time_ns"] = np.maximum(rows["last_ns"], rows["reverse_last_ns"])
    role = rows["biflow_direction"]
    found["role"] = np.where(turned, _FLIPPED[role], role)
    return found


def event_columns(events: Rows) -> dict[str, Column]:
    """``events`` (EVENT_DTYPE): one end each."""
    found: dict[str, Column] = {name: events[name] for name in events.dtype.names or ()}
    found["local_owner"] = found.pop("owner")
    is_retransmit = events["kind"] == EventKind.RETRANSMIT
    found["tx_retransmitted"] = np.where(is_retransmit, events["count"], 0)
    return found


def socket_columns(sockets: Rows, now_s: float) -> dict[str, Column]:
    """``sockets`` (SOCKET_DTYPE) as of ``now_s`` (Unix time)."""
    found: dict[str, Column] = {name: sockets[name] for name in sockets.dtype.names or ()}
    found["local_owner"] = found.pop("owner")
    found["time_ns"] = np.full(len(sockets), round(now_s * 1e6) * 1000, np.int64)
    return found


def flow_key(columns: Columns) -> Rows:
    """The Flow Key as ``export.share.flow_hash`` wants it."""
    kinds: list[Any] = [("protocol", "u1")]
    for side in ("source", "destination"):
        kinds += [(f"{side}_address", "u1", 16), (f"{side}_port", "u2")]
    keys: Rows = np.zeros(len(columns["protocol"]), np.dtype(kinds, align=True))
    keys["protocol"] = columns["protocol"]
    for side, end in (("source", "local"), ("destination", "remote")):
        for name in ("address", "port"):
            keys[f"{side}_{name}"] = columns[f"{end}_{name}"]
    return keys


def add_client_and_server(columns: dict[str, Column]) -> None:
    """``source`` and ``destination`` beside the ends: the client is the source."""
    is_server = columns["role"] == Role.RESPONDER
    for name in ("address", "port"):
        local, remote = columns[f"local_{name}"], columns[f"remote_{name}"]
        where = is_server[:, None] if local.ndim > 1 else is_server
        columns[f"source_{name}"] = np.where(where, remote, local)
        columns[f"destination_{name}"] = np.where(where, local, remote)
    for name in ("octets", "packets"):
        sent, received = columns[f"tx_{name}"], columns[f"rx_{name}"]
        columns[f"source_{name}"] = np.where(is_server, received, sent)
        columns[f"destination_{name}"] = np.where(is_server, sent, received)
        columns[name] = sent + received


def take(columns: Columns, rows: NDArray[np.intp]) -> Columns:
    return {name: column.take(rows, axis=0) for name, column in columns.items()}
