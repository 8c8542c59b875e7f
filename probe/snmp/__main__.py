"""Runs the agent. Its arguments are CONTROL and SOCKET, the descriptors of two open sockets.

``process.SnmpAgent`` starts the process. CONTROL delivers lines of JSON: first the settings, then
the containers behind the interfaces. The process ends when CONTROL ends.

The process starts as the user of the probe, often root. It imports only ``privileges`` until it has
dropped every right but that of reading files. It drops that one before it reads a datagram.
"""

from __future__ import annotations

import signal
import sys

from probe.snmp.privileges import drop_privileges, keep_reading


def main() -> None:
    keep_reading()  # packages may lie in a folder that only root can read
    # signals of the terminal and of systemd are for the parent, which ends this process
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    from probe.snmp.agent import serve

    control, source = map(int, sys.argv[1:3])
    serve(control, source, drop_privileges)


if __name__ == "__main__":
    main()
