"""Asks an agent: one request at a time, or a whole walk."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.support.snmp.wire import (
    BULK,
    END_OF_VIEW,
    GET,
    NEXT,
    NULL,
    RESPONSE,
    V2C,
    Malformed,
    Message,
    Oid,
    Varbind,
    decode,
)

#: Maps the octets of a request to those of its answer, None if there was none.
Exchange = Callable[[bytes, float], bytes | None]
#: Seconds to wait for an answer. A check that expects none waits for all of them.
PATIENCE_S = 30.0
IN_VAIN_S = 1.0


class Disorder(Exception):
    """Raised for a walk that does not go forward."""


@dataclass
class Manager:
    """A manager; ``clock`` and ``pause`` are replaced in tests of the manager itself."""

    exchange: Exchange
    community: bytes = b"public"
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    _request: int = field(default=1000, init=False)

    def ask(
        self,
        kind: int,
        names: Iterable[Oid],
        second: int = 0,
        third: int = 0,
        version: int = V2C,
        community: bytes | None = None,
        value: tuple[int, bytes] = (NULL, b""),
        patience_s: float = PATIENCE_S,
    ) -> Message | None:
        """Returns the answer, None if there was none. Raises Malformed if it fits no request."""
        self._request += 1
        community = self.community if community is None else community
        bound = [(name, *value) for name in names]
        asked = Message(kind, bound, second, third, version, community, self._request)
        octets = self.exchange(asked.encode(), patience_s)
        if octets is None:
            return None
        answer = decode(octets)
        same = (RESPONSE, self._request, version, community)
        if (answer.kind, answer.request, answer.version, answer.community) != same:
            raise Malformed("the answer is not to this request")
        return answer

    def get(self, *names: Oid) -> list[Varbind]:
        answer = self.ask(GET, names)
        if answer is None or answer.second:
            raise Malformed(f"no values: {answer}")
        return answer.varbinds

    def walk(self, root: Oid, kind: int = NEXT, repetitions: int = 0) -> list[Varbind]:
        """Returns all objects below ``root``. Raises Disorder if names do not ascend."""
        found: list[Varbind] = []
        at = root
        while True:
            answer = self.ask(kind, [at], 0, repetitions if kind == BULK else 0)
            if answer is None or answer.second or not answer.varbinds:
                raise Disorder(f"no answer behind {at}")
            for name, tag, value in answer.varbinds:
                if tag == END_OF_VIEW or name[: len(root)] != root:
                    return found
                if name <= at:
                    raise Disorder(f"{name} behind {at}")
                found.append((name, tag, value))
                at = name


def over_udp(host: str, port: int) -> Exchange:
    def exchange(octets: bytes, patience_s: float) -> bytes | None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.connect((host, port))
            asking.settimeout(patience_s)
            asking.send(octets)
            try:
                return asking.recv(65535)
            except (TimeoutError, ConnectionRefusedError):
                return None

    return exchange
