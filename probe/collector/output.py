"""Writes collected records as JSON lines, or as flows for people."""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Protocol

from probe.ipfix.decode import Decoded, Record
from probe.view.flows import FlowTable
from probe.view.screen import open_view, print_flows
from probe.view.text import write_lines


class Output(Protocol):
    """An output of records, refreshed about once a second and closed at the end."""

    def show(self, decoded: Decoded) -> None: ...

    def refresh(self, where: str) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """An output of one JSON line per record.

    Option records, with ``with_options``, begin with ``"options": true``.
    """

    def __init__(self, with_options: bool) -> None:
        self._with_options = with_options

    def show(self, decoded: Decoded) -> None:
        write_lines(sys.stdout, map(to_json, decoded.flows))
        if self._with_options:
            write_lines(sys.stdout, (to_json({"options": True, **one}) for one in decoded.options))

    def refresh(self, where: str) -> None:
        """Does nothing, since no line waits."""

    def close(self) -> None:
        """Does nothing, since no line waits."""


class Live:
    """A view of the latest flows: a table on a terminal, else a line per flow with news."""

    def __init__(self) -> None:
        self._flows = FlowTable()
        self._view = open_view(self._flows)

    def show(self, decoded: Decoded) -> None:
        self._flows.observe(decoded.flows, time.time())

    def refresh(self, where: str) -> None:
        self._view.refresh(f"{len(self._flows)} flows at {where}")

    def close(self) -> None:
        self._view.close()


class Printed:
    """A print of all flows of a recording, by its own clock.

    It prints them at the end, and earlier when they are too many to keep.
    """

    _LIMIT = 50_000

    def __init__(self) -> None:
        self._flows = FlowTable(2 * self._LIMIT)
        self._fresh = 0

    def show(self, decoded: Decoded) -> None:
        self._flows.observe(decoded.flows, 0.0)
        self._fresh += len(decoded.flows)
        if self._fresh >= self._LIMIT:  # print before FlowTable forgets one
            self.close()

    def refresh(self, where: str) -> None:
        """Does nothing, since later records may continue the flows."""

    def close(self) -> None:
        self._fresh = 0
        print_flows(self._flows)


def to_json(record: Record) -> str:
    """Returns one record as one line. NaN and infinite numbers, which JSON lacks, become null."""
    try:
        return json.dumps(record, allow_nan=False)
    except ValueError:
        return json.dumps({name: _known_to_json(value) for name, value in record.items()})


def _known_to_json(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
