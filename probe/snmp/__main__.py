"""The agent's process: its arguments are CONTROL SOCKET, both descriptors of open sockets.

``process.SnmpAgent`` starts it. From CONTROL come lines of JSON: first the settings, then whatever
is behind the interfaces. The end of CONTROL ends the process.

The process begins as the probe's user, often root. So nothing but ``privileges`` is imported before
all rights but that of reading are gone, and no datagram is read before that one is gone, too.
"""

from __future__ import annotations

import signal
import sys

from probe.snmp.privileges import drop_privileges, keep_reading


def main() -> None:
    keep_reading()  # root's packages may lie where only root may read
    # The terminal's and systemd's signals are for the parent, which ends us.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    from probe.snmp.agent import serve

    control, source = map(int, sys.argv[1:3])
    serve(control, source, drop_privileges)


if __name__ == "__main__":
    main()
