"""The built-in collector: a UDP socket in front of the sans-io Collecting Process."""

from __future__ import annotations

import contextlib
import json
import logging
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from probe.errors import ConfigError, DecodeError
from probe.ipfix.decode import CollectingProcess, Record
from probe.mapping import load_elements
from probe.stop import StopSignals
from probe.view.flows import FlowTable
from probe.view.screen import View, open_view

_log = logging.getLogger(__name__)

_MAX_DATAGRAM = 65535
_RECEIVE_BUFFER = 8 << 20  # a burst of every exporter's whole cache
_SO_RCVBUFFORCE = 33
_BATCH = 256  # datagrams read at a time, so that the screen is not starved
_LAST_READS = 32  # as many batches as the receive buffer holds
_REFRESH_S = 1.0


class CollectorSocket:
    """Listens at ``host``, ``port`` (0: any free one). ConfigError when it cannot."""

    def __init__(self, host: str, port: int, pen: int) -> None:
        self.process = CollectingProcess(load_elements(pen))
        self._socket = _bind(host, port)

    @property
    def address(self) -> tuple[str, int]:
        name: tuple[str, int] = self._socket.getsockname()[:2]
        return name

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> list[Record]:
        """Records of the datagrams that wait, at most some hundred; garbage is counted."""
        records: list[Record] = []
        for datagram, peer in self._datagrams():
            try:
                records += self.process.decode(datagram, peer)
            except DecodeError as error:
                _log.debug("message of %s: %s", peer, error)
        return records

    def summary(self) -> str:
        counted = self.process.statistics
        return (
            f"{counted.records} records in {counted.messages} messages collected, "
            f"{counted.lost_records} records lost on the way, {counted.errors} broken messages, "
            f"{counted.unknown_sets} sets without a template"
        )

    def close(self) -> None:
        self._socket.close()

    def _datagrams(self) -> Iterator[tuple[bytes, object]]:
        with contextlib.suppress(BlockingIOError):
            for _ in range(_BATCH):
                yield self._socket.recvfrom(_MAX_DATAGRAM)


def collect(listen: str, as_json: bool, duration_s: float | None, pen: int) -> None:
    """Show what arrives at ``listen`` until a signal or ``duration_s``; then a summary."""
    host, port = parse_listen(listen)
    source = CollectorSocket(host, port, pen)
    flows = FlowTable()
    view = None if as_json else open_view(flows)
    end = time.monotonic() + duration_s if duration_s is not None else float("inf")
    try:
        with StopSignals() as stop, selectors.DefaultSelector() as selector:
            selector.register(stop, selectors.EVENT_READ)
            selector.register(source, selectors.EVENT_READ)
            _collect_until(end, stop, selector, source, flows, view)
    finally:
        if view:
            view.close()
        source.close()
    print(f"sockflow: {source.summary()}", file=sys.stderr)


def _collect_until(
    end: float,
    stop: StopSignals,
    selector: selectors.BaseSelector,
    source: CollectorSocket,
    flows: FlowTable,
    view: View | None,
) -> None:
    refresh_at = 0.0
    while not stop.received and (now := time.monotonic()) < end:
        if now >= refresh_at:
            refresh_at = now + _REFRESH_S
            if view:
                view.refresh(f"{len(flows)} flows at {source.address[0]}:{source.address[1]}")
        selector.select(max(0.0, min(refresh_at, end) - now))
        _show(source.read(), flows, view)
    for _ in range(_LAST_READS):  # what already waits was sent in time
        _show(source.read(), flows, view)


def _show(records: list[Record], flows: FlowTable, view: View | None) -> None:
    if view:
        flows.observe(records, time.time())
    elif records:
        sys.stdout.writelines(to_json(record) + "\n" for record in records)
        sys.stdout.flush()


def to_json(record: Record) -> str:
    """One record as one line; octets without a text form are hexadecimal."""
    return json.dumps(record, default=_json_value)


def _json_value(value: object) -> object:
    return value.hex() if isinstance(value, bytes | bytearray | memoryview) else str(value)


def parse_listen(text: str) -> tuple[str, int]:
    """'HOST:PORT' with IPv6 addresses in brackets; ConfigError else."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"--listen {text!r}: {error}") from None
    if not host or port is None or parts.path or parts.query or parts.username is not None:
        raise ConfigError(f"--listen {text!r}: expected HOST:PORT, IPv6 addresses in brackets")
    return host, port


def _bind(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen on {host} port {port}: {reason}") from None
    _enlarge_buffer(bound)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return bound


def _enlarge_buffer(bound: socket.socket) -> None:
    """Beyond net.core.rmem_max where the privilege allows it."""
    try:
        bound.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except OSError:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
