"""Receives what the probe under test exports, in a socket with a bounded buffer."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Iterator

from bench.process import BenchError

_SO_RCVBUFFORCE = 33
_BUFFER = 64 << 20
_HEADER = struct.Struct("!HHIII")  # RFC 7011 section 3.1


class Sink:
    """Counts the Data Records that an IPFIX exporter sent, by its sequence numbers."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.records = 0
        self.messages = 0

    @property
    def url(self) -> str:
        return f"ipfix://127.0.0.1:{self.port}"

    def wait(self, patience_s: float = 15.0) -> None:
        """Waits for a first message: the probe sends Templates once it is attached."""
        if not select.select([self._socket], [], [], patience_s)[0]:
            raise BenchError("the probe sends nothing")

    def drain(self) -> None:
        """Reads the waiting messages. The records of the last one are not counted yet."""
        with contextlib.suppress(BlockingIOError):
            while True:
                message = self._socket.recv(65535)
                self.messages += 1
                self.records = _HEADER.unpack_from(message)[3]

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def sink() -> Iterator[Sink]:
    made = Sink()
    try:
        yield made
    finally:
        made.close()
