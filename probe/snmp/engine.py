"""Connects the agent to pysnmp.

Its transport carries all versions. Its engine serves version 3, with security (USM) and access
control (VACM).
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import time
from typing import Any

from pyasn1.codec.ber import decoder, encoder
from pyasn1.type.univ import OctetString
from pysnmp.carrier.asyncio.dgram import udp, udp6
from pysnmp.entity import config
from pysnmp.entity.engine import SnmpEngine
from pysnmp.entity.rfc3413 import cmdrsp, context
from pysnmp.proto import error, rfc1905

from probe.snmp.allowance import Allowance
from probe.snmp.answering import Answering
from probe.snmp.ber import BerError, Reader
from probe.snmp.message import V2C, decode_request
from probe.snmp.responder import respond
from probe.snmp.settings import SnmpSettings, SnmpUser
from probe.snmp.view import AgentView

_USM = 3
_VACM = 3
_READABLE = (1, 3, 6, 1)
#: Octets around the PDU of version 3: headers, security parameters, padding.
_AROUND = 256
#: The most octets of answers that wait for the socket. Further answers are dropped.
_MOST_UNSENT = 1 << 20
_BOOTS_EPOCH_S = 1_704_067_200  # 2024-01-01
_AUTHENTICATIONS = {
    "": config.USM_AUTH_NONE,
    "md5": config.USM_AUTH_HMAC96_MD5,
    "sha": config.USM_AUTH_HMAC96_SHA,
    "sha224": config.USM_AUTH_HMAC128_SHA224,
    "sha256": config.USM_AUTH_HMAC192_SHA256,
    "sha384": config.USM_AUTH_HMAC256_SHA384,
    "sha512": config.USM_AUTH_HMAC384_SHA512,
}
_PRIVACIES = {
    "": config.USM_PRIV_NONE,
    "des": config.USM_PRIV_CBC56_DES,
    "aes": config.USM_PRIV_CFB128_AES,
    "aes192": config.USM_PRIV_CFB192_AES_BLUMENTHAL,
    "aes256": config.USM_PRIV_CFB256_AES_BLUMENTHAL,
    "aes192c": config.USM_PRIV_CFB192_AES,
    "aes256c": config.USM_PRIV_CFB256_AES,
}


class _Responder(cmdrsp.CommandResponderBase):  # type: ignore[misc]
    """Answers PDUs that the engine has decrypted and authenticated, like all others.

    pysnmp's own responders do not answer a GetBulk without repetitions, with many repeaters, or
    with an answer larger than a datagram.
    """

    SUPPORTED_PDU_TYPES = tuple(
        kind.tagSet
        for kind in (
            rfc1905.GetRequestPDU,
            rfc1905.GetNextRequestPDU,
            rfc1905.GetBulkRequestPDU,
            rfc1905.SetRequestPDU,
        )
    )

    def __init__(self, engine: Any, snmp_context: Any, view: AgentView, answering: Answering):
        super().__init__(engine, snmp_context)
        self._view, self._answering = view, answering

    def process_pdu(
        self, engine: Any, model: Any, security_model: Any, security_name: Any,
        security_level: Any, context_engine: Any, context_name: Any, version: Any, pdu: Any,
        largest: Any, reference: Any,
    ) -> None:  # fmt: skip
        """Answers a PDU, and never raises: the engine would keep its state of the request."""
        try:
            engine.access_control_model[_VACM].is_access_allowed(
                engine, security_model, security_name, security_level, "read", context_name,
                (*_READABLE, 2, 1),
            )  # fmt: skip
            request = decode_request(Reader(encoder.encode(pdu)))
            octets = respond(self._view.tree(), V2C, request, int(largest) - _AROUND)
            answer, _ = decoder.decode(octets, asn1Spec=rfc1905.ResponsePDU())
        except error.StatusInformation:
            answer = rfc1905.ResponsePDU()
            cmdrsp.v2c.apiPDU.set_defaults(answer)
            cmdrsp.v2c.apiPDU.set_request_id(answer, cmdrsp.v2c.apiPDU.get_request_id(pdu))
            cmdrsp.v2c.apiPDU.set_error_status(answer, "authorizationError")
        except BerError as problem:
            self._answering.note_malformed(str(security_name), str(problem))
            return
        with contextlib.suppress(error.StatusInformation):
            engine.message_dispatcher.return_response_pdu(
                engine, model, security_model, security_name, security_level, context_engine,
                context_name, version, answer, largest, reference, {},
            )  # fmt: skip


def open_engine(
    settings: SnmpSettings, source: socket.socket, view: AgentView, answering: Answering, host: str
) -> SnmpEngine:
    """Serves ``source`` in the running event loop.

    ``host`` is a name that no other agent has.
    """
    engine = _engine(engine_id(host))
    _load_late_parts(engine, any(user.priv for user in settings.users))
    for user in settings.users:
        _add_user(engine, user)
    _Responder(engine, context.SnmpContext(engine), view, answering)
    kind = udp6 if source.family == socket.AF_INET6 else udp
    base = kind.Udp6AsyncioTransport if kind is udp6 else kind.UdpAsyncioTransport
    transport = _transport_class(base, engine, kind.DOMAIN_NAME, answering, view)()
    config.add_transport(engine, kind.DOMAIN_NAME, transport.open_server_mode(sock=source))
    return engine


def _load_late_parts(engine: SnmpEngine, has_privacy: bool) -> None:
    """Loads the files that pysnmp would read at the first request.

    By then the agent may not be able to read the folder of its packages, such as below /root.
    """
    engine.get_mib_builder().load_modules("__SNMPv2-MIB", "__SNMP-USER-BASED-SM-MIB")
    if has_privacy:
        from cryptography.hazmat.backends import default_backend

        default_backend()


def engine_id(host: str) -> str:
    """Returns the SnmpEngineID (RFC 3411, format 5) in hexadecimal, the same after a restart."""
    return "80007ed905" + hashlib.sha256(host.encode()).hexdigest()[:32]


def _engine(identity: str) -> SnmpEngine:
    """Returns the engine, with a time instead of pysnmp's stored count of starts.

    pysnmp stores that count below /tmp, in a directory that any user may have made. A time grows
    as RFC 3414 section 2.2.2 requires, and need not be stored.
    """
    engine = SnmpEngine()
    found = engine.get_mib_builder().import_symbols(
        "__SNMP-FRAMEWORK-MIB", "snmpEngineID", "snmpEngineBoots"
    )
    for symbol, value in zip(found, (OctetString(hexValue=identity), _boots()), strict=True):
        symbol.syntax = symbol.syntax.clone(value)
    engine.snmpEngineID = found[0].syntax
    return engine


def _forget_clocks(engine: SnmpEngine) -> None:
    """Drops the clocks of senders, which pysnmp notes of every message for five minutes.

    Only managers need them. Walks of a large table once a minute would fill megabytes with them.
    """
    for noted in ("timeline", "timelineExpQueue"):
        getattr(engine.security_models[_USM], f"_SnmpUSMSecurityModel__{noted}").clear()


def _boots() -> int:
    return max(1, int(time.time()) - _BOOTS_EPOCH_S)


def _add_user(engine: SnmpEngine, user: SnmpUser) -> None:
    config.add_v3_user(
        engine, user.name, _AUTHENTICATIONS[user.auth], user.auth_key or None,
        _PRIVACIES[user.priv], user.priv_key or None,
    )  # fmt: skip
    level = "authPriv" if user.priv else "authNoPriv" if user.auth else "noAuthNoPriv"
    config.add_vacm_user(engine, _USM, user.name, level, readSubTree=_READABLE)


def _transport_class(
    base: type[Any],
    engine: SnmpEngine,
    domain: tuple[int, ...],
    answering: Answering,
    view: AgentView,
) -> type[Any]:
    counted, allowance = view.counted, Allowance()

    class Transport(base):  # type: ignore[misc]
        """Passes messages of version 3 to the engine, and answers the others at once."""

        def datagram_received(self, datagram: bytes, address: Any) -> None:
            answer = answering.answer(datagram, address[0], lambda: self._ask(datagram, address))
            if answer is not None:
                self._send(answer, address)

        def send_message(self, message: Any, address: Any) -> None:
            self._send(bytes(message), address)

        def _ask(self, datagram: bytes, address: Any) -> None:
            try:
                engine.message_dispatcher.receive_message(
                    engine, domain, self.ADDRESS_TYPE(address), datagram
                )
            except Exception as problem:  # pysnmp may raise anything for hostile octets
                answering.note_malformed(address[0], str(problem) or type(problem).__name__)
            finally:
                _forget_clocks(engine)

        def _send(self, message: bytes, address: Any) -> None:
            if self.transport.get_write_buffer_size() >= _MOST_UNSENT:
                counted.dropped += 1
            elif not allowance.take(address[0], len(message), view.size):
                counted.dropped += 1
                answering.note_greedy(address[0])
            else:
                self.transport.sendto(message, tuple(address))
                counted.sent += 1

        def error_received(self, problem: OSError) -> None:
            """Ignores that a poller does not listen any more."""

    return Transport
