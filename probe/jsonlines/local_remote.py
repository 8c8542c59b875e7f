"""Arranges flows, events and sockets as columns of a local and a remote end.

LOCAL is the end whose socket was metered. If both were, it is the client; in a Biflow that is the
source. The names of a flow's columns depend on what the column of the schema (``flow/columns``)
belongs to::

    END, BOTH_ENDS       local_x, remote_x
    DIRECTION, SENDER    tx_x, rx_x: what the local end sent, and what it received
    FLOW                 x

``first_ns``, ``last_ns``, ``time_ns`` and ``role`` are added for the whole flow. Events have the
columns of EVENT_DTYPE, with ``local_owner`` for the owner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.flow.biflow import pair_directions
from probe.flow.codes import EventKind, Role
from probe.flow.columns import BIFLOW_DTYPE, In, Of, select
from probe.flow.rows import Rows

Column = NDArray[Any]
Columns = Mapping[str, Column]

_FLIPPED = np.array([Role.UNKNOWN, Role.RESPONDER, Role.INITIATOR], np.uint8)


class LazyColumns(dict[str, Column]):
    """Columns that are made when they are first read, and kept."""

    def __init__(self, make: Mapping[str, Callable[[], Column]]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: str) -> Column:
        self[name] = found = self._make[name]()
        return found

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._make


def flow_columns(records: Rows) -> LazyColumns:
    """Returns both directions of each flow in ``records`` (RECORD_DTYPE or BIFLOW_DTYPE) as one."""
    rows = records if records.dtype == BIFLOW_DTYPE else pair_directions(records)
    turned = (rows["source_netns"] == 0) & (rows["destination_netns"] != 0)

    def pick(local: str, remote: str) -> Column:
        """Returns the first column where the source is the local end, else the second."""
        first, second = rows[local], rows[remote]
        return np.where(turned[:, None] if first.ndim > 1 else turned, second, first)

    make = {
        name: (partial(pick, *names) if len(names) > 1 else partial(rows.__getitem__, *names))
        for name, names in _OF_BIFLOWS.items()
    }
    role = rows["biflow_direction"]
    last = partial(np.maximum, rows["last_ns"], rows["reverse_last_ns"])
    return LazyColumns(
        {
            **make,
            "first_ns": partial(np.minimum, rows["first_ns"], rows["reverse_first_ns"]),
            "last_ns": last,
            "time_ns": last,
            "role": lambda: np.where(turned, _FLIPPED[role], role),
        }
    )


def _of_biflows() -> dict[str, tuple[str, ...]]:
    """Maps each name to a column of a Biflow, or to two if it depends on which end is local."""
    found: dict[str, tuple[str, ...]] = {
        column.name: (column.name,) for column in select(In.RECORD, Of.FLOW)
    }
    for column in select(In.RECORD, Of.END, Of.BOTH_ENDS):
        found[f"local_{column.name}"] = column.record_names
        found[f"remote_{column.name}"] = column.record_names[::-1]
    for column in select(In.RECORD, Of.DIRECTION, Of.SENDER):
        found[f"tx_{column.name}"] = (column.name, f"reverse_{column.name}")
        found[f"rx_{column.name}"] = (f"reverse_{column.name}", column.name)
    return found


_OF_BIFLOWS = _of_biflows()


def event_columns(events: Rows) -> dict[str, Column]:
    """Returns the columns of ``events`` (EVENT_DTYPE), each of which belongs to one end."""
    found: dict[str, Column] = {name: events[name] for name in events.dtype.names or ()}
    found["local_owner"] = found.pop("owner")
    is_retransmit = events["kind"] == EventKind.RETRANSMIT
    found["tx_retransmitted"] = np.where(is_retransmit, events["count"], 0)
    return found


def socket_columns(sockets: Rows, now_s: float) -> dict[str, Column]:
    """Returns the columns of ``sockets`` (SOCKET_DTYPE) as of ``now_s`` (Unix time)."""
    found: dict[str, Column] = {name: sockets[name] for name in sockets.dtype.names or ()}
    found["local_owner"] = found.pop("owner")
    found["time_ns"] = np.full(len(sockets), round(now_s * 1e6) * 1000, np.int64)
    return found


def flow_key(columns: Columns) -> Rows:
    """Returns the Flow Key as ``export.share.flow_hash`` wants it."""
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
    """Adds ``source`` (the client) and ``destination`` beside the ends."""
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


def take(columns: Columns, rows: NDArray[np.intp]) -> LazyColumns:
    """Returns some rows of all columns."""
    return LazyColumns(_Taken(columns, rows))


class _Taken(dict[str, Callable[[], Column]]):
    """Maps the name of each column to a function that returns some of its rows."""

    def __init__(self, columns: Columns, rows: NDArray[np.intp]) -> None:
        super().__init__()
        self._columns, self._rows = columns, rows

    def __missing__(self, name: str) -> Callable[[], Column]:
        return lambda: self._columns[name].take(self._rows, axis=0)
