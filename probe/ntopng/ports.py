"""Reports the listening sockets to ntopng: all in one message, when they change."""

from __future__ import annotations

import os
from typing import Any

from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows
from probe.ipfix.text import encode_text
from probe.mapping.tables import Privacy

_PROTOCOLS = {6: "tcp", 17: "udp"}
#: Bounds the message, because ntopng drops more than 131072 octets. The lowest ports are kept.
_MOST_ENTRIES = 1200
_LONGEST_NAME = 40

#: (family in ntopng's spelling, port, process, package)
Entry = tuple[str, int, str, str]


class ListeningPorts:
    """The listening sockets. ``has_changed`` is True from a change until the next ``read``."""

    def __init__(self, owners: OwnerTable, privacy: Privacy) -> None:
        self._owners = owners
        self._tells_names = privacy.names
        self._entries: dict[bytes, Entry] = {}
        self.has_changed = False

    def observe(self, sockets: Rows) -> None:
        """Notes sockets (SOCKET_DTYPE) that were opened or closed."""
        for row in sockets:
            protocol = _PROTOCOLS.get(int(row["protocol"]))
            if protocol is None:
                continue
            key = _key(row)
            if row["gone"]:
                self.has_changed |= self._entries.pop(key, None) is not None
                continue
            owner = self._owners[int(row["owner"])]
            entry = (
                f"{protocol}{row['ip_version']}",
                int(row["local_port"]),
                _clean(owner.process.name) if self._tells_names else "",
                _clean(owner.container.name),
            )
            self.has_changed |= self._entries.get(key) != entry
            self._entries[key] = entry

    def read(self, address: str) -> dict[str, Any]:
        """Returns the message, with each port once per process. A container is its package."""
        self.has_changed = False
        found: dict[str, list[dict[str, Any]]] = {}
        entries = sorted(set(self._entries.values()), key=lambda entry: entry[1])
        for family, port, process, package in entries[:_MOST_ENTRIES]:
            found.setdefault(family, []).append({"port": port, "proc": process, "pkg": package})
        return {
            "instance-name": os.uname().nodename,
            "ip-addresses": [address],
            "listening-ports": found,
        }


def _clean(text: str) -> str:
    return encode_text(text[:_LONGEST_NAME]).decode()


def _key(row: Any) -> bytes:
    """Returns the key of a socket: its cookie, with addresses in case that is not known."""
    names = ("cookie", "netns_inode", "local_address", "local_port", "ip_version", "protocol")
    return b"".join(row[name].tobytes() for name in names)
