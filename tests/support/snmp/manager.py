"""Who asks an agent: one request at a time, and whole walks."""

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

#: The octets of a request to those of an answer; None: none came.
Exchange = Callable[[bytes, float], bytes | None]
#: An answer that will come has this long; where none is due, waiting is in vain by design.
PATIENCE_S = 30.0
IN_VAIN_S = 1.0


class Disorder(Exception):
    """A walk that does not go forward."""


@dataclass
class Manager:
    """``clock`` and ``pause`` are the agent's world: a test of this manager has its own."""

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
        """The answer; None where none came. Malformed where it is not one to this request."""
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
        """All below ``root``. Disorder where a name is not behind the one before."""
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
