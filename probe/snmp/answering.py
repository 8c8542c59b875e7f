"""Answers datagrams of versions 1 and 2c, and passes those of version 3 on. Does no I/O.

The project's own BER serves these versions instead of pysnmp. It refuses a wrong community before
it decodes the rest, and makes no object per variable, which is some ten times as fast.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable

from probe.snmp.ber import BerError
from probe.snmp.message import (
    SET,
    V1,
    V2C,
    V3,
    check_version3,
    decode_request,
    encode_message,
    open_message,
    read_version,
)
from probe.snmp.responder import NoAnswer, respond
from probe.snmp.view import AgentView

_log = logging.getLogger(__name__)
#: The largest answer in octets: a UDP datagram over IPv4.
LARGEST_MESSAGE = 65507
_SAY_AGAIN_S = 60.0


class Answering:
    """Answers datagrams; ``communities`` are those that may read, none of them empty."""

    def __init__(
        self,
        view: AgentView,
        communities: tuple[str, ...],
        has_users: bool,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._view = view
        self._communities = [community.encode() for community in communities]
        self._has_users = has_users
        self._malformed = _Notice("%d malformed SNMP messages, the last from %s: %s", monotonic)
        self._greedy = _Notice(
            "%d SNMP answers dropped, the last to %s, who has asked for more than a poller needs: "
            "its address may be forged",
            monotonic,
        )

    def answer(self, datagram: bytes, peer: str, engine: Callable[[], None]) -> bytes | None:
        """Returns the answer to a datagram.

        Returns None if there is nothing to answer, and after it has called ``engine`` for a
        complete message of version 3.
        """
        counted = self._view.counted
        counted.received += 1
        try:
            version = read_version(datagram)
            if version == V3 and self._has_users:
                check_version3(datagram)
                engine()
                return None
            if version in (V1, V2C):
                return self._answer(version, datagram)
            counted.bad_versions += 1
        except (BerError, NoAnswer) as error:
            self.note_malformed(peer, str(error))
        return None

    def _answer(self, version: int, datagram: bytes) -> bytes | None:
        counted = self._view.counted
        community, rest = open_message(datagram)
        if not self._is_known(community):  # checked before the rest is decoded
            counted.bad_communities += 1
            return None
        request = decode_request(rest)
        counted.bad_uses += request.kind == SET
        room = LARGEST_MESSAGE - len(community) - 16
        pdu = respond(self._view.tree(), version, request, room)
        return encode_message(version, community, pdu)

    def note_malformed(self, peer: str, reason: str) -> None:
        """Counts a malformed message, and warns once a minute."""
        self._view.counted.malformed += 1
        self._malformed.say(peer, reason)

    def note_greedy(self, peer: str) -> None:
        """Warns once a minute that an address has used up its ``Allowance``."""
        self._greedy.say(peer)

    def _is_known(self, community: bytes) -> bool:
        known = [hmac.compare_digest(community, one) for one in self._communities]
        return any(known)


class _Notice:
    """A warning that is logged at most once a minute; ``text`` begins with the number of cases."""

    def __init__(self, text: str, monotonic: Callable[[], float]) -> None:
        self._text, self._monotonic = text, monotonic
        self._say_at = float("-inf")
        self._unsaid = 0

    def say(self, *more: str) -> None:
        self._unsaid += 1
        if (now := self._monotonic()) >= self._say_at:
            _log.warning(self._text, self._unsaid, *more)
            self._say_at, self._unsaid = now + _SAY_AGAIN_S, 0
