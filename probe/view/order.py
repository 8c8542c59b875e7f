"""Sorts flows for views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.flow.key_index import distinct
from probe.flow.owner import Owner, OwnerTable
from probe.flow.rows import Rows
from probe.view.describe import container_text, process_text, user_text

_Key = NDArray[Any]

#: Sort keys of LIVE_DTYPE rows; the row with the most comes first.
_NUMBERS: dict[str, Callable[[Rows], _Key]] = {
    "latest": lambda rows: rows["last_ns"],
    "sent": lambda rows: rows["client_octets"],
    "received": lambda rows: rows["server_octets"],
    "octets": lambda rows: rows["client_octets"] + rows["server_octets"],
    "packets": lambda rows: rows["client_packets"] + rows["server_packets"],
    "rtt": lambda rows: np.maximum(rows["client_rtt_us"], rows["server_rtt_us"]),
    "resent": lambda rows: rows["retransmitted"],
    "age": lambda rows: np.where(rows["has_ended"], rows["last_ns"] - rows["first_ns"],
                                 np.iinfo("i8").max - rows["first_ns"]),
}  # fmt: skip
#: Sort texts of the client, or of the server if the client has none. A to Z, empty ones last.
_TEXTS: dict[str, Callable[[Owner], str]] = {
    "process": process_text,
    "user": user_text,
    "container": container_text,
}
_ENDPOINTS = ("client", "server")
FLOW_ORDERS = (*_NUMBERS, *_TEXTS, *_ENDPOINTS)


def sort_flows(rows: Rows, key: str, owners: OwnerTable) -> Rows:
    """Returns ``rows`` (LIVE_DTYPE) sorted by a key of FLOW_ORDERS. Among equals, latest first."""
    rows = rows[np.argsort(rows["last_ns"], kind="stable")[::-1]]
    if key in _NUMBERS:
        numbers = _NUMBERS[key](rows)
        return rows[np.argsort(numbers.max(initial=0) - numbers, kind="stable")]
    if key in _TEXTS:
        texts = _texts(rows, owners, _TEXTS[key])
        return rows[np.lexsort((texts, texts == ""))]
    address = np.ascontiguousarray(rows[f"{key}_address"]).view("S16")[:, 0]
    return rows[np.lexsort((rows[f"{key}_port"], address, rows["ip_version"]))]


def _texts(rows: Rows, owners: OwnerTable, text: Callable[[Owner], str]) -> NDArray[np.str_]:
    ends = np.stack([rows["client_owner"], rows["server_owner"]])
    present = distinct(ends.ravel())
    texts = np.array([text(owners[index]) for index in present.tolist()], np.str_)
    client, server = texts[np.searchsorted(present, ends)] if len(present) else ends.astype("U")
    found: NDArray[np.str_] = np.where(client == "", server, client)
    return found
