"""Receives IPFIX over TLS (RFC 7011 section 11), with certificates of one or both sides."""

from __future__ import annotations

import selectors
import socket
import ssl
from collections.abc import Callable

from probe.collector.address import Listen
from probe.collector.connection import RECEIVE_OCTETS, Connection, Peer
from probe.errors import ConfigError
from probe.opening import warn_if_readable


def server_context(listen: Listen) -> ssl.SSLContext:
    """Returns the TLS settings of the listener; with ``ca``, exporters need a certificate by it.

    Raises ConfigError if a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.num_tickets = 0  # an exporter may close at once, and not read tickets
    _load(listen.cert, lambda: context.load_cert_chain(listen.cert, listen.key or None))
    warn_if_readable(listen.key or listen.cert, "a private key")
    if listen.ca:
        _load(listen.ca, lambda: context.load_verify_locations(listen.ca))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load(path: str, load: Callable[[], None]) -> None:
    try:
        load()
    except ssl.SSLError as error:
        raise ConfigError(f"--listen: {path}: {error.reason or error}: expected PEM") from None
    except OSError as error:
        raise ConfigError(f"--listen: cannot read {path}: {error.strerror}") from None


class TlsConnection(Connection):
    """A TLS connection, which does its handshake as octets come.

    ``receive`` raises OSError if the handshake fails.
    """

    def __init__(
        self, accepted: socket.socket, peer: Peer, since_s: float, context: ssl.SSLContext
    ) -> None:
        super().__init__(accepted, peer, since_s)
        self.is_ready = False
        self._tls = context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        self.socket = self._tls

    def receive(self) -> bytes | None:
        try:
            if not self.is_ready:
                self._tls.do_handshake()
                self.is_ready = True
            octets = self._tls.recv(RECEIVE_OCTETS)
        except ssl.SSLWantReadError:
            self.awaits = selectors.EVENT_READ
            return None
        except ssl.SSLWantWriteError:
            self.awaits = selectors.EVENT_WRITE
            return None
        self.awaits = selectors.EVENT_READ
        return octets

    @property
    def has_more(self) -> bool:
        return self._tls.pending() > 0
