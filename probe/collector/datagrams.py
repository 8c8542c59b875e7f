"""Reads messages from a UDP socket for the Collecting Process."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
from collections.abc import Iterator

from probe.collector.address import Listen
from probe.collector.message_source import (
    MOST_OCTETS,
    MOST_RECORDS,
    bind,
    collecting_process,
    summary,
)
from probe.errors import DecodeError
from probe.ipfix.decode import CollectingProcess, Decoded, Record

_log = logging.getLogger(__name__)

_MAX_DATAGRAM = 65535
_SO_MEMINFO, _MEMINFO_DROPS = 55, 8  # linux/sock_diag.h
_BATCH = 256  # datagrams per turn, so that the screen is drawn in time


class CollectorSocket:
    """A UDP socket at ``host`` and ``port``, where 0 is any free port.

    Several sources may share a ``process``. Without one, ``pen`` is for a new one.
    Raises ConfigError if the socket cannot be bound.
    """

    def __init__(
        self, host: str, port: int, pen: int = 0, process: CollectingProcess | None = None
    ) -> None:
        self.process = process or collecting_process(pen)
        self._socket = bind(Listen("ipfix", host, port))
        self._only: tuple[str, int] | None = None
        self.refused = self._dropped = 0

    @property
    def address(self) -> tuple[str, int]:
        name: tuple[str, int] = self._socket.getsockname()[:2]
        return name

    def fileno(self) -> int:
        return self._socket.fileno()

    def hear_only(self, exporter: tuple[str, int]) -> None:
        """Receives only datagrams of this address and port from now on.

        The socket is connected to it, so the kernel refuses all others. Datagrams that others sent
        before are counted as ``refused``.
        """
        if exporter != self._only:
            self._socket.connect(exporter)
            self._only = exporter

    def read(self) -> list[Record]:
        """Returns flow records of some hundred waiting datagrams. Counts malformed ones."""
        return self.receive().flows

    def receive(self) -> Decoded:
        """Returns flow and option records of some hundred waiting datagrams."""
        found, octets = Decoded([], []), 0
        for datagram, peer in self._datagrams():
            octets += len(datagram)
            if self._only and peer[:2] != self._only:
                self.refused += 1
                continue
            try:
                decoded = self.process.decode_message(datagram, peer)
            except DecodeError as error:
                _log.debug("message of %s: %s", peer, error)
                continue
            found.flows.extend(decoded.flows)
            found.options.extend(decoded.options)
            if len(found.flows) + len(found.options) >= MOST_RECORDS or octets >= MOST_OCTETS:
                break
        return found

    def losses(self) -> dict[str, int]:
        self._count_dropped()
        return {
            "datagrams of strangers refused": self.refused,
            "datagrams that found no room in the socket's buffer": self._dropped,
        }

    def summary(self) -> str:
        return summary(self.process.statistics, self.losses())

    def close(self) -> None:
        self._count_dropped()
        self._socket.close()

    def _count_dropped(self) -> None:
        if self._socket.fileno() >= 0:
            option = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
            self._dropped = struct.unpack("=9I", option)[_MEMINFO_DROPS]

    def _datagrams(self) -> Iterator[tuple[bytes, tuple[str, int]]]:
        with contextlib.suppress(BlockingIOError):
            for _ in range(_BATCH):
                yield self._socket.recvfrom(_MAX_DATAGRAM)
