"""Runs the agent: reads settings and names from the probe, and answers pollers."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from typing import Any

from probe import log
from probe.interfaces.names import InterfaceList
from probe.snmp.answering import Answering
from probe.snmp.engine import open_engine
from probe.snmp.gate import attach_gate, count_refused
from probe.snmp.naming import Behind
from probe.snmp.settings import from_json
from probe.snmp.view import AgentView

_MOST_LINE = 1 << 24


def serve(control: int, source: int, drop_privileges: Callable[[], None]) -> None:
    """Answers pollers on descriptor ``source`` until ``control`` ends.

    Calls ``drop_privileges`` when everything is loaded and before the first datagram is read.
    """
    sockets = (socket.socket(fileno=control), socket.socket(fileno=source))
    asyncio.run(_serve(*sockets, drop_privileges))


async def _serve(
    control: socket.socket, source: socket.socket, drop_privileges: Callable[[], None]
) -> None:
    reader, _ = await asyncio.open_unix_connection(sock=control, limit=_MOST_LINE)
    told = json.loads(await reader.readline())
    log.configure(told["verbose"])
    logging.getLogger("probe").propagate = False
    settings = from_json(told["settings"])
    interfaces = InterfaceList()
    interfaces.refresh()
    attach_gate(source, settings.communities, bool(settings.users))
    view = AgentView(
        settings, interfaces.table.read, told["pen"], count_refused=lambda: count_refused(source)
    )
    view.tree()  # interfaces of this moment count as older than the agent
    answering = Answering(view, settings.communities, bool(settings.users))
    engine = open_engine(settings, source, view, answering, told["host"])
    drop_privileges()
    asyncio.get_running_loop().add_reader(interfaces.fileno(), _note, interfaces, view)
    while line := await reader.readline():
        view.set_behind(_decode_behind(json.loads(line)))
    engine.close_dispatcher()


def _note(interfaces: InterfaceList, view: AgentView) -> None:
    interfaces.refresh()
    view.invalidate()


def _decode_behind(told: dict[str, Any]) -> dict[int, Behind]:
    return {int(index): Behind(*texts) for index, texts in told.items()}
