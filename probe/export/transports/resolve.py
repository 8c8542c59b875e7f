"""Names to socket addresses without stopping the probe: a resolver may take many seconds."""

from __future__ import annotations

import socket
import threading
from typing import Any

#: (family, socket address) as socket.connect takes it.
Address = tuple[int, Any]


class Resolution:
    """One look-up: ``addresses`` is None while it lasts, then what was found, maybe nothing."""

    def __init__(self, host: str, port: int) -> None:
        self.addresses: list[Address] | None = None
        self.error = ""
        if self._resolve(host, port, socket.AI_NUMERICHOST):
            return
        self.addresses, self.error = None, ""
        try:
            threading.Thread(target=self._resolve, args=(host, port, 0), daemon=True).start()
        except RuntimeError as error:  # no more threads for us
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
