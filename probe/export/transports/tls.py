"""Sends messages over TLS (RFC 7011 section 11.3), because they hold names of users.

Both sides show a certificate. That of the collector must come from a known authority and hold the
collector's name. No message is sent until it is checked and the collector could refuse ours.
"""

from __future__ import annotations

import errno
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from probe.errors import ConfigError
from probe.export.transports.connection import TcpConnection
from probe.export.transports.destination import Destination
from probe.export.transports.reach import DEFAULT_LOOK_UP_S, reason_of
from probe.export.transports.resolve import Address
from probe.export.transports.stream_sender import DEFAULT_STREAM_QUEUE_OCTETS
from probe.export.transports.tcp import TcpSender
from probe.opening import warn_if_readable

_RECORD_OCTETS = 16384  # RFC 8446 section 5.1: the plaintext of one TLS record
#: In TLS 1.3 our handshake ends before the collector has checked our certificate (RFC 8446
#: section 4.6). Data from the collector, mostly a session ticket, shows that it accepts the
#: certificate. Silence for this time is taken as acceptance too.
_CONSENT_S = 1.0
_REFUSALS = ("certificate", "unknown ca", "access denied")


class TlsSender(TcpSender):
    """A TcpSender over TLS. Raises ConfigError if the certificates cannot be used."""

    _write_octets = 4 * _RECORD_OCTETS

    def __init__(
        self,
        destination: Destination,
        queue_octets: int = DEFAULT_STREAM_QUEUE_OCTETS,
        look_up_s: float = DEFAULT_LOOK_UP_S,
    ) -> None:
        tls_context(destination)
        warn_if_readable(destination.key or destination.cert, "a private key")
        super().__init__(destination, queue_octets, look_up_s)

    def _new_connection(self, address: Address, now: float) -> TcpConnection:
        try:
            context = tls_context(self.destination)  # read again: certificates are renewed
        except ConfigError as error:
            raise OSError(errno.EINVAL, str(error)) from None
        name = self.destination.name or self.destination.host
        return TlsConnection(address, now, context, name)


class TlsConnection(TcpConnection):
    """A TCP connection with TLS in memory buffers instead of around the socket.

    So the octets of TLS that were acknowledged are known, and from them the messages. ``_marks``
    notes for each TLS record where it ends, in octets of TLS and in octets of messages.
    """

    def __init__(self, address: Address, now: float, context: ssl.SSLContext, name: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._agreed_at: float | None = None
        self._has_answered = False
        self._held = memoryview(b"")
        self._sent = 0  # octets of TLS that the kernel took
        self._plain = self._plain_arrived = 0
        self._marks: deque[tuple[int, int]] = (
            deque()
        )  # ends of records: in octets of TLS, of messages
        super().__init__(address, now)

    @property
    def held(self) -> int:
        return len(self._held) + self._outgoing.pending

    def _agree(self, now: float) -> bool:
        if self._agreed_at is None:
            self._shake_hands(now)
        else:
            self.listen()
        if self._agreed_at is None:
            return False
        is_certain = self._tls.version() != "TLSv1.3" or self._has_answered
        return is_certain or now - self._agreed_at >= _CONSENT_S

    def _shake_hands(self, now: float) -> None:
        """Answers all that arrived. Sends each answer before it reads on, which may raise."""
        while not self._step():
            try:
                octets = self._receive()
            except ConnectionError as error:
                reason = f"{reason_of(error)} during the TLS handshake"
                raise OSError(errno.ECONNRESET, reason) from None
            if not octets:
                return
            self._incoming.write(octets)
        self._agreed_at = now
        self._has_answered = self._incoming.pending > 0

    def _step(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._hand_on()
            return False
        except ssl.SSLError as error:
            self._hand_on()  # tells the collector why
            raise OSError(errno.EPROTO, explain(error)) from error
        self._hand_on()
        return True

    def write(self, pieces: list[memoryview]) -> int:
        if self.held and not self._hand_on():
            return 0
        octets = memoryview(b"".join(pieces))
        for start in range(0, len(octets), _RECORD_OCTETS):
            record = octets[start : start + _RECORD_OCTETS]
            self._tls.write(record)
            self._plain += len(record)
            self._marks.append((self._sent + self._outgoing.pending, self._plain))
        self._hand_on()
        return len(octets)

    def listen(self) -> None:
        while octets := self._receive():
            self._has_answered = True
            self._incoming.write(octets)
            self._read()
        self._hand_on()

    def _read(self) -> None:
        """Reads session tickets, and drops any data. Raises OSError for an end or a refusal."""
        try:
            while self._tls.read(_RECORD_OCTETS):
                pass
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            raise OSError(errno.EPROTO, explain(error)) from error
        raise ConnectionResetError(errno.ECONNRESET, "the collector ended the TLS session")

    def _hand_on(self) -> bool:
        """Gives the kernel the octets that TLS made. Returns True if it took all."""
        while self.held:
            if not self._held:
                self._held = memoryview(self._outgoing.read())
            taken = super().write([self._held])
            if not taken:
                return False
            self._sent += taken
            self._held = self._held[taken:]
        return True

    def unacknowledged(self) -> int:
        """Returns unacknowledged octets of messages; a TLS record counts until all has arrived."""
        arrived = self._sent - self._unacknowledged_by_host()
        while self._marks and self._marks[0][0] <= arrived:
            self._plain_arrived = self._marks.popleft()[1]
        return self._plain - self._plain_arrived

    def _say_goodbye(self) -> None:
        with suppress(ssl.SSLWantReadError):  # do not wait for the answer of the collector
            self._tls.unwrap()


def tls_context(destination: Destination) -> ssl.SSLContext:
    """Returns a context for TLS 1.2 or later with the certificates of ``destination``.

    Raises ConfigError, which names the file, if one cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the certificate and its name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for option in ("ca", "cert", "key"):
        _check_readable(destination, option)
    try:
        if destination.ca:
            context.load_verify_locations(cafile=destination.ca)
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    except ssl.SSLError:
        raise _unusable(destination, "ca", "holds no certificate in PEM") from None
    try:
        context.load_cert_chain(destination.cert, destination.key, _no_password(destination))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            reason = f"is not the key of the certificate {destination.cert}"
            raise _unusable(destination, "key", reason) from None
        reason = f"and key {destination.key}: no certificate and private key in PEM"
        raise _unusable(destination, "cert", reason) from None
    return context


def explain(error: ssl.SSLError) -> str:
    """Returns a text for a user who has to repair a certificate."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the collector's certificate is refused: {error.verify_message}"
    reason = (error.reason or str(error)).replace("_", " ").lower()
    _, is_alert, alert = reason.partition("alert ")
    if is_alert and any(text in alert for text in _REFUSALS):
        return f"the collector refuses our certificate: {alert}"
    return f"TLS: {f'the collector says {alert}' if is_alert else reason}"


def _check_readable(destination: Destination, option: str) -> None:
    path = getattr(destination, option)
    try:
        if path:
            with open(path, "rb"):
                pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _unusable(destination, option, reason) from None


def _no_password(destination: Destination) -> Callable[[], str]:
    """Returns a function that raises, so that OpenSSL asks for no password on the terminal."""

    def refuse() -> str:
        raise _unusable(destination, "key", "is encrypted: give one without a passphrase")

    return refuse


def _unusable(destination: Destination, option: str, reason: str) -> ConfigError:
    path = getattr(destination, option)
    return ConfigError(f"destination {destination}: {option} {path}: {reason}")
