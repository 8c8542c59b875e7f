"""Defines a source of records, and binds the sockets of sources."""

from __future__ import annotations

import logging
import socket
from typing import Protocol

from probe.collector.address import Listen
from probe.errors import ConfigError
from probe.ipfix.decode import CollectingProcess, CollectorStatistics, Decoded
from probe.mapping import load_elements, load_netflow9, load_registry

_log = logging.getLogger(__name__)

#: Octets of a socket's receive buffer. It takes a burst when exporters send their whole caches.
RECEIVE_BUFFER = 8 << 20
#: A source stops reading after so many records in one turn. A message can have 65 000 records,
#: each of which takes three hundred octets of memory.
MOST_RECORDS = 4096
#: It also stops after so many octets. A field of two octets takes about ninety as a value.
MOST_OCTETS = 512 << 10
_SO_RCVBUFFORCE = 33


class MessageSource(Protocol):
    """A source of records that a selector can wait for.

    ``receive`` returns the records of some waiting messages, and never blocks.
    """

    @property
    def address(self) -> tuple[str, int]: ...

    def fileno(self) -> int: ...

    def receive(self) -> Decoded: ...

    def losses(self) -> dict[str, int]:
        """Returns counts of problems below the level of messages, by name."""

    def close(self) -> None: ...


def collecting_process(pen: int) -> CollectingProcess:
    """Returns a Collecting Process for IPFIX and NetFlow v9, with Sockflow's names of elements.

    ``pen`` is the enterprise number of Sockflow's own elements.
    """
    elements = load_elements(pen)
    return CollectingProcess(elements, load_netflow9(elements), load_registry(), _tell)


def _tell(peer: object, text: str) -> None:
    """Logs a warning about ``peer``, which is an address or a file."""
    who = f"{peer[0]} port {peer[1]}" if isinstance(peer, tuple) else peer
    _log.warning("%s: %s", who, text)


def bind(listen: Listen) -> socket.socket:
    """Returns a non-blocking socket, bound to the first address of the host.

    Raises ConfigError if it cannot be bound.
    """
    kind = socket.SOCK_DGRAM if listen.is_datagram else socket.SOCK_STREAM
    try:
        found = socket.getaddrinfo(
            listen.host, listen.port, type=kind, flags=socket.AI_PASSIVE
        )  # fmt: skip
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen on {listen}: {reason}") from None
    _enlarge_buffer(bound)
    try:
        if not listen.is_datagram:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot listen on {listen}: {error.strerror}") from None
    return bound


def summary(counted: CollectorStatistics, losses: dict[str, int]) -> str:
    """Returns the summary in one line. Rare counts are named only if they are not 0."""
    line = (
        f"{counted.records} records in {counted.messages} messages collected, "
        f"{counted.lost_records} records lost on the way, {counted.errors} broken messages, "
        f"{counted.unknown_sets} sets without a template"
    )
    seldom = {
        "option records": counted.option_records,
        "messages lost on the way": counted.lost_messages,
        "templates not obeyed": counted.template_errors,
        "domains forgotten to make room": counted.evicted_domains,
        **{kind.text: count for kind, count in counted.oddities.items()},
        **losses,
    }
    return line + "".join(f", {count} {name}" for name, count in seldom.items() if count)


def _enlarge_buffer(bound: socket.socket) -> None:
    """Enlarges a UDP receive buffer, beyond net.core.rmem_max if the privilege allows it."""
    if bound.type != socket.SOCK_DGRAM:
        return
    try:
        bound.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except OSError:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
