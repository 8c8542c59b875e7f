"""Shows events for ``sockflow events``, and sockets for ``sockflow flows --listening``."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from probe.flow.codes import EventKind, Role
from probe.flow.filter import Choice
from probe.flow.owner import UNKNOWN, Owner, OwnerTable
from probe.flow.rows import Rows
from probe.jsonlines.agent_objects import AgentLines
from probe.jsonlines.local_remote import event_columns, socket_columns
from probe.jsonlines.sink import exporter_members
from probe.mapping.tables import Privacy
from probe.units import milliseconds, octets
from probe.view.describe import (
    container_text,
    endpoint_text,
    parent_text,
    process_text,
    protocol_text,
    user_text,
)
from probe.view.flow_views import View
from probe.view.terminal import Drawn, Terminal

if TYPE_CHECKING:
    from probe.interfaces.interface import Interface

_OF_CONTAINERS = (EventKind.CONTAINER_START, EventKind.CONTAINER_STOP)


class EventView(View):
    """A view that takes events and sockets, and no flows."""

    def __init__(
        self, owners: OwnerTable, choice: Choice, stream: TextIO, as_json: bool = False
    ) -> None:
        super().__init__(owners, choice, stream)
        exporter = exporter_members(owners.node)
        self._lines = AgentLines(owners, Privacy(), exporter) if as_json else None

    def send(self, records: Rows, now_s: float) -> None:
        """Ignores flows, which other views show."""

    def send_events(self, events: Rows, now_s: float) -> None:
        """Ignores ``events`` (EVENT_DTYPE) unless a subclass shows them."""

    def send_sockets(self, sockets: Rows, now_s: float) -> None:
        """Ignores ``sockets`` (SOCKET_DTYPE) unless a subclass shows them."""

    def send_interfaces(self, links: Sequence[Interface], now_s: float) -> None:
        """Ignores interfaces, which these views do not show."""

    def forget(self, owners: list[int]) -> None:
        if self._lines:
            self._lines.forget(owners)


class Events(EventView):
    """A view that writes a line for each event of ``kinds`` when it comes."""

    def __init__(
        self,
        owners: OwnerTable,
        choice: Choice,
        stream: TextIO,
        as_json: bool,
        kinds: Collection[EventKind],
    ) -> None:
        super().__init__(owners, choice, stream, as_json)
        self._kinds = list(kinds)

    def send_events(self, events: Rows, now_s: float) -> None:
        events = events[np.isin(events["kind"], self._kinds)]
        events = events[self._choice.matches(events, self._owners)]
        if not len(events):
            return
        if self._lines:
            self.write(self._lines.events(event_columns(events)))
        else:
            self.write([self._line(event) for event in events])

    def summary(self) -> str:
        return f"{self._shown} events"

    def _line(self, event: Any) -> str:
        owner, remote = (self._owners[int(event[name])] for name in ("owner", "remote_owner"))
        return event_line(event, owner, remote)


class Listening(EventView):
    """A view that writes a line for each socket that opens or closes."""

    def send_sockets(self, sockets: Rows, now_s: float) -> None:
        sockets = sockets[self._choice.matches_sockets(sockets, self._owners)]
        if len(sockets):
            self.show(sockets, now_s)

    def show(self, sockets: Rows, now_s: float) -> None:
        """Shows the sockets that the user chose, at least one."""
        if self._lines:
            self.write(self._lines.sockets(socket_columns(sockets, now_s)))
        else:
            self.write([self._line(socket) for socket in sockets])

    def summary(self) -> str:
        return f"{self._shown} sockets"

    def _line(self, socket: Any) -> str:
        owner = self._owners[int(socket["owner"])]
        what = "closed" if socket["gone"] else "open"
        protocol = protocol_text(int(socket["protocol"]))
        return ", ".join([f"{what} {protocol} {endpoint_text(socket, 'local')}", *_who(owner)])


class ListeningOnScreen(Listening):
    """A live table of the open sockets, ordered by port."""

    COLUMNS = ("proto", "address", "process", "parent", "user", "container")

    def __init__(self, owners: OwnerTable, choice: Choice, stream: TextIO) -> None:
        super().__init__(owners, choice, stream)
        self._terminal = Terminal()
        self._open: dict[tuple[int, int], Any] = {}

    def show(self, sockets: Rows, now_s: float) -> None:
        for socket in sockets:
            key = int(socket["cookie"]), int(socket["netns_inode"])
            if socket["gone"]:
                self._open.pop(key, None)
            else:
                self._open[key] = socket
                self._shown += 1

    def refresh(self) -> None:
        found = sorted(
            self._open.values(), key=lambda row: (int(row["local_port"]), int(row["protocol"]))
        )
        title = f"sockflow on {os.uname().nodename}: {len(found)} sockets wait for peers"
        rows = [self._cells(socket) for socket in found[: self._terminal.rows]]
        self._terminal.show_table(Drawn(title, self.COLUMNS, rows))

    def close(self) -> None:
        self._terminal.close()

    def _cells(self, socket: Any) -> tuple[str, ...]:
        owner = self._owners[int(socket["owner"])]
        return (
            protocol_text(int(socket["protocol"])), endpoint_text(socket, "local"),
            process_text(owner), parent_text(owner), user_text(owner), container_text(owner),
        )  # fmt: skip


def event_line(event: Any, owner: Owner, remote_owner: Owner = UNKNOWN) -> str:
    """Returns the line of an event, a row of EVENT_DTYPE.

    An example is '12:00:01.250 CONNECT tcp 10.0.0.1:40000 > 10.0.0.2:80, process ...'. The arrow
    points from the client to the server. The local end comes first, and the container at the remote
    end comes last if it is known.
    """
    kind = EventKind(event["kind"])
    when = datetime.fromtimestamp(event["time_ns"] / 1e9).isoformat(timespec="milliseconds")
    head = f"{when.partition('T')[2]} {kind.name}"
    if kind in _OF_CONTAINERS:
        return ", ".join([f"{head} {container_text(owner)}", *_who(owner)[:-1]])
    arrow = "<" if event["role"] == Role.RESPONDER else ">"
    local, remote = (endpoint_text(event, end) for end in ("local", "remote"))
    flow = f"{protocol_text(int(event['protocol']))} {local} {arrow} {remote}"
    peer = container_text(remote_owner)
    with_peer = [f"peer {peer}"] if peer else []
    return ", ".join([f"{head} {flow}", *_details(event, kind), *_who(owner), *with_peer])


def _details(event: Any, kind: EventKind) -> list[str]:
    """Returns the texts that only events of this ``kind`` have."""
    if kind == EventKind.CONNECT_FAILED:
        number = int(event["error"])
        return [errno.errorcode.get(number, f"errno {number}")] if number else []
    if kind == EventKind.RETRANSMIT:
        return [f"{event['count']} segments"]
    if kind != EventKind.CLOSE:
        return []
    found = [f"{way} {octets(int(event[f'{lane}_octets']))}"
             for way, lane in (("sent", "tx"), ("received", "rx"))]  # fmt: skip
    rtt = milliseconds(int(event["rtt_us"]))
    return [*found, f"rtt {rtt}"] if rtt else found


def _who(owner: Owner) -> list[str]:
    named = (
        ("process", process_text(owner)), ("parent", parent_text(owner)),
        ("user", user_text(owner)), ("container", container_text(owner)),
    )  # fmt: skip
    return [f"{name} {text}" for name, text in named if text]
