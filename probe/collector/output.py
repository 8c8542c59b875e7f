"""What was collected, as JSON lines or for people."""

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
    """``refresh`` is called about once a second, ``close`` at the end."""

    def show(self, decoded: Decoded) -> None: ...

    def refresh(self, where: str) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One line per record; option records, when asked for, begin with ``"options": true``."""

    def __init__(self, with_options: bool) -> None:
        self._with_options = with_options

    def show(self, decoded: Decoded) -> None:
        write_lines(sys.stdout, map(to_json, decoded.flows))
        if self._with_options:
            write_lines(sys.stdout, (to_json({"options": True, **one}) for one in decoded.options))

    def refresh(self, where: str) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing waits."""


class Live:
    """The latest flows: a table on a terminal, else a line where there is news."""

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
    """All flows of a recording, by its own clock; printed when they are too many to keep."""

    _LIMIT = 50_000

    def __init__(self) -> None:
        self._flows = FlowTable(2 * self._LIMIT)
        self._fresh = 0

    def show(self, decoded: Decoded) -> None:
        self._flows.observe(decoded.flows, 0.0)
        self._fresh += len(decoded.flows)
        if self._fresh >= self._LIMIT:  # before FlowTable forgets one of them
            self.close()

    def refresh(self, where: str) -> None:
        """Nothing that is complete waits."""

    def close(self) -> None:
        self._fresh = 0
        print_flows(self._flows)


def to_json(record: Record) -> str:
    """One record as one line; a number that JSON does not know (not a number, infinite) is null."""
    try:
        return json.dumps(record, allow_nan=False)
    except ValueError:
        return json.dumps({name: _known_to_json(value) for name, value in record.items()})


def _known_to_json(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
