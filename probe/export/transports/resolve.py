"""Looks names up in a thread, because a resolver may take many seconds."""

from __future__ import annotations

import socket
import threading
from typing import Any

#: (family, socket address) as socket.connect takes it.
Address = tuple[int, Any]


class Resolution:
    """One look-up. ``addresses`` is None while it runs, then a list, which may be empty."""

    def __init__(self, host: str, port: int) -> None:
        self.addresses: list[Address] | None = None
        self.error = ""
        if self._resolve(host, port, socket.AI_NUMERICHOST):
            return
        self.addresses, self.error = None, ""
        try:
            threading.Thread(target=self._resolve, args=(host, port, 0), daemon=True).start()
        except RuntimeError as error:  # the process may start no more threads
            self.addresses, self.error = [], str(error)

    def _resolve(self, host: str, port: int, flags: int) -> bool:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=flags)
        except (OSError, UnicodeError) as error:
            self.error = getattr(error, "strerror", None) or str(error)
            self.addresses = []
            return False
        self.addresses = [(family, address) for family, _, _, _, address in found]
        return True
