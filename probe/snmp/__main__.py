"""The agent's process: ``python -m probe.snmp CONTROL SOCKET``, both descriptors of open sockets.

From CONTROL come lines of JSON: first the settings, then whatever is behind the interfaces. Its end
is ours.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from typing import Any

from probe import log
from probe.interfaces.names import InterfaceList
from probe.snmp.answering import Answering
from probe.snmp.engine import open_engine
from probe.snmp.naming import Behind
from probe.snmp.settings import from_json
from probe.snmp.view import AgentView

_NOBODY = 65534
_MOST_LINE = 1 << 24


async def _serve(control: socket.socket, source: socket.socket) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=control, limit=_MOST_LINE)
    told = json.loads(await reader.readline())
    log.configure(told["verbose"])
    logging.getLogger("probe").propagate = False
    settings = from_json(told["settings"])
    interfaces = InterfaceList()
    interfaces.refresh()  # what is here now was here before the agent
    view = AgentView(settings, interfaces.links.read, told["pen"])
    answering = Answering(view, settings.communities, bool(settings.users))
    engine = open_engine(settings, source, view, answering, told["host"])
    _drop_privileges()
    asyncio.get_running_loop().add_reader(interfaces.fileno(), _note, interfaces, view)
    writer.write(b"ready\n")
    while line := await reader.readline():
        view.set_behind(_decode_behind(json.loads(line)))
    engine.close_dispatcher()


def _note(interfaces: InterfaceList, view: AgentView) -> None:
    interfaces.refresh()
    view.invalidate()


def _decode_behind(told: dict[str, Any]) -> dict[int, Behind]:
    return {int(index): Behind(*texts) for index, texts in told.items()}


def _drop_privileges() -> None:
    """Counters are for everybody, and the socket is open."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's: the parent ends us
    control, source = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    asyncio.run(_serve(control, source))


if __name__ == "__main__":
    main()
