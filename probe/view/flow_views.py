"""Shows the flows that the user of ``sockflow flows`` chose.

The records come straight from the cache. They hold data that no collector gets: the RTT of both
sockets, parent processes, and owners that need no decoding.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TextIO

from probe.export.local import LocalSink
from probe.flow.filter import Choice
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows
from probe.flow.rules import record_ends
from probe.jsonlines.agent_objects import AgentLines
from probe.jsonlines.lines import encode
from probe.jsonlines.local_remote import flow_columns
from probe.jsonlines.sink import exporter_members
from probe.mapping.tables import Privacy
from probe.view.describe import to_flow
from probe.view.groups import GROUP_COLUMNS, Groups, Totals, group_cells, group_object
from probe.view.live import LiveFlows
from probe.view.order import sort_flows
from probe.view.terminal import Drawn, Terminal
from probe.view.text import ALL_COLUMNS, NUMBERS, aligned, cells, line, write_lines
from probe.view.tree import tree_lines

_KEEP_ENDED_NS = 10 * 10**9
_OWNERS = ("source_owner", "destination_owner")


class View(LocalSink):
    """A sink that shows its records.

    The caller calls ``refresh`` after each tick, ``end`` after the last records, and ``close`` in
    any case. ``close`` leaves the terminal usable.
    """

    def __init__(self, owners: OwnerTable, choice: Choice, stream: TextIO) -> None:
        super().__init__("shown")
        self._owners = owners
        self._choice = choice
        self._stream = stream
        self._shown = 0

    def send(self, records: Rows, now_s: float) -> None:
        if self._choice:
            records = records[self._choice.matches(record_ends(records), self._owners, _OWNERS)]
        if len(records):
            self.take(records, now_s)

    def take(self, records: Rows, now_s: float) -> None:
        """Takes records of flows that the user chose, at least one."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Shows what is new."""

    def end(self) -> None:
        """Shows the rest after the last records."""
        self.refresh()

    def write(self, lines: Sequence[str]) -> None:
        self._shown += len(lines)
        write_lines(self._stream, lines)


class JsonFlows(View):
    """A view that writes JSON objects, one per line, as ``sockflow run -e json:-`` does."""

    def __init__(self, owners: OwnerTable, choice: Choice, stream: TextIO) -> None:
        super().__init__(owners, choice, stream)
        self._lines = AgentLines(owners, Privacy(), exporter_members(owners.node))

    def take(self, records: Rows, now_s: float) -> None:
        self.write(self._lines.flows(flow_columns(records)))

    def forget(self, owners: list[int]) -> None:
        self._lines.forget(owners)

    def summary(self) -> str:
        return f"{self._shown} objects"


class FlowsByLine(View):
    """A view that writes each flow with news, as a line or as a tree."""

    def __init__(
        self, owners: OwnerTable, choice: Choice, stream: TextIO, order: str, as_tree: bool = False
    ) -> None:
        super().__init__(owners, choice, stream)
        self.flows = LiveFlows()
        self._order = order
        self._as_tree = as_tree

    def take(self, records: Rows, now_s: float) -> None:
        self.flows.observe(records, round(now_s * 1e9))

    def owners_in_use(self) -> set[int]:
        return self.flows.owners_in_use()

    def refresh(self) -> None:
        self.write(self._texts(sort_flows(self.flows.take_news(), self._order, self._owners)))
        self.flows.forget_ended(time.time_ns() + 1)

    def summary(self) -> str:
        return f"{self.flows.flows} flows"

    def _texts(self, rows: Rows) -> list[str]:
        now_s = time.time()
        if not self._as_tree:
            return [line(to_flow(row, self._owners), now_s) for row in rows]
        node = os.uname().nodename
        return [text for row in rows for text in tree_lines(row, self._owners, node, now_s)]


class FlowsOnScreen(FlowsByLine):
    """A live view of the first flows in the chosen order, as many as fit on the screen."""

    def __init__(
        self, owners: OwnerTable, choice: Choice, stream: TextIO, order: str, as_tree: bool = False
    ) -> None:
        super().__init__(owners, choice, stream, order, as_tree)
        self._terminal = Terminal()

    def refresh(self) -> None:
        self.flows.forget_ended(time.time_ns() - _KEEP_ENDED_NS)
        rows = sort_flows(self.flows.rows, self._order, self._owners)[: self._terminal.rows]
        title = f"sockflow on {os.uname().nodename}: {len(self.flows)} flows by {self._order}"
        if self._as_tree:
            self._terminal.show_lines(title, self._texts(rows)[: self._terminal.rows])
            return
        flows = [to_flow(row, self._owners) for row in rows]
        now_s = time.time()
        texts = [cells(flow, now_s, ALL_COLUMNS) for flow in flows]
        dim = [number for number, flow in enumerate(flows) if flow.ended]
        self._terminal.show_table(Drawn(title, ALL_COLUMNS, texts, NUMBERS, dim))

    def close(self) -> None:
        self._terminal.close()


class GroupsAtEnd(FlowsByLine):
    """A view that writes the sums of groups over the whole run, once at its end."""

    def __init__(
        self,
        owners: OwnerTable,
        choice: Choice,
        stream: TextIO,
        order: str,
        by: str,
        as_json: bool = False,
    ) -> None:
        super().__init__(owners, choice, stream, order)
        self._groups = Groups(by, owners)
        self.flows = LiveFlows(on_leave=self._groups.leave)
        self._by = by
        self._as_json = as_json

    def refresh(self) -> None:
        self.flows.forget_ended(time.time_ns() - _KEEP_ENDED_NS)

    def end(self) -> None:
        if self._as_json:
            now_s = time.time()
            self.write([encode(group_object(self._by, *one, now_s)) for one in self._totals()])
        else:
            drawn = self._drawn()
            self.write(list(aligned(drawn.columns, drawn.rows, drawn.numbers)))

    def _drawn(self, most: int | None = None) -> Drawn:
        title = f"sockflow on {os.uname().nodename}: {self.flows.flows} flows by {self._by}"
        rows = [group_cells(*one) for one in self._totals()[:most]]
        return Drawn(title, (self._by, *GROUP_COLUMNS), rows, GROUP_COLUMNS)

    def _totals(self) -> list[tuple[str, Totals]]:
        return self._groups.totals(self.flows.rows, self._order)


class GroupsOnScreen(GroupsAtEnd):
    """A live table of the sums of groups."""

    def __init__(
        self, owners: OwnerTable, choice: Choice, stream: TextIO, order: str, by: str
    ) -> None:
        super().__init__(owners, choice, stream, order, by)
        self._terminal = Terminal()

    def refresh(self) -> None:
        super().refresh()
        self._terminal.show_table(self._drawn(self._terminal.rows))

    def end(self) -> None:
        self.refresh()

    def close(self) -> None:
        self._terminal.close()
