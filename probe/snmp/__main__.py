"""The agent's process: ``python -m probe.snmp CONTROL SOCKET``, both descriptors of open sockets.

From CONTROL come lines of JSON: first the settings, then whatever is behind the interfaces. Its end
is ours.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
from typing import Any

from probe import log
from probe.interfaces.names import InterfaceList
from probe.snmp.answering import Answering
from probe.snmp.engine import open_engine
from probe.snmp.naming import Behind
from probe.snmp.privileges import drop_privileges
from probe.snmp.settings import from_json
from probe.snmp.view import AgentView

_MOST_LINE = 1 << 24


async def _serve(control: socket.socket, source: socket.socket) -> None:
    reader, _ = await asyncio.open_unix_connection(sock=control, limit=_MOST_LINE)
    told = json.loads(await reader.readline())
    log.configure(told["verbose"])
    logging.getLogger("probe").propagate = False
    settings = from_json(told["settings"])
    interfaces = InterfaceList()
    interfaces.refresh()
    view = AgentView(settings, interfaces.links.read, told["pen"])
    view.tree()  # what is here now was here before the agent
    answering = Answering(view, settings.communities, bool(settings.users))
    engine = open_engine(settings, source, view, answering, told["host"])
    drop_privileges()  # not before all of pysnmp is loaded, which may lie where only root may read
    asyncio.get_running_loop().add_reader(interfaces.fileno(), _note, interfaces, view)
    while line := await reader.readline():
        view.set_behind(_decode_behind(json.loads(line)))
    engine.close_dispatcher()


def _note(interfaces: InterfaceList, view: AgentView) -> None:
    interfaces.refresh()
    view.invalidate()


def _decode_behind(told: dict[str, Any]) -> dict[int, Behind]:
    return {int(index): Behind(*texts) for index, texts in told.items()}


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # the terminal's and systemd's, for the parent,
        signal.signal(number, signal.SIG_IGN)  # which ends us
    control, source = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    asyncio.run(_serve(control, source))


if __name__ == "__main__":
    main()
