"""A small agent with two interfaces that keeps every rule, so that tests can break one."""

from __future__ import annotations

from tests.support.snmp.checks import (
    BAD_COMMUNITIES,
    IF_ENTRY,
    IF_MIB,
    IF_NUMBER,
    IF_TYPES,
    IF_X_ENTRY,
    IF_X_TYPES,
    SYSTEM,
    TABLE_CHANGE,
    UPTIME,
)
from tests.support.snmp.wire import (
    BULK,
    COUNTER32,
    COUNTER64,
    END_OF_VIEW,
    GET,
    INTEGER,
    NEXT,
    NO_SUCH_INSTANCE,
    NO_SUCH_OBJECT,
    NULL,
    OCTETS,
    RESPONSE,
    SET,
    TIME_TICKS,
    V1,
    Message,
    Oid,
    Varbind,
    decode,
)

Value = tuple[int, bytes]
_MOST_OCTETS = 60_000
_NO_SUCH_NAME, _NOT_WRITABLE = 2, 17
_STACK = (*IF_MIB, 1, 2, 1, 3, 1, 0)


class Refused(Exception):
    """Raised with (error status, error index)."""

    def __init__(self, status: int, index: int = 1) -> None:
        super().__init__(status, index)
        self.status, self.index = status, index


class Agent:
    """An agent that is asked by calls, and whose clock the caller moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.bad_communities = 0
        self.values: dict[Oid, Value] = {}
        for index, name in ((1, b"lo"), (7, b"veth1")):
            for number, tag in IF_TYPES.items():
                self.values[*IF_ENTRY, number, index] = tag, b"\1"
            for number, tag in IF_X_TYPES.items():
                self.values[*IF_X_ENTRY, number, index] = tag, b"\1"
            self._fill(index, name)
        self.values[IF_NUMBER] = INTEGER, b"\2"
        self.values[TABLE_CHANGE] = TIME_TICKS, b"\5"
        self.values[_STACK] = INTEGER, b"\1"
        for number in (1, 4, 5, 6):
            self.values[*SYSTEM, number, 0] = OCTETS, b"text"

    def _fill(self, index: int, name: bytes) -> None:
        large, low = (7).to_bytes(1, "big") + bytes(3) + b"\x0b", b"\x0b"
        counters = {6: large, 7: large, 10: large, 11: large}
        for number, value in counters.items():
            self.values[*IF_X_ENTRY, number, index] = COUNTER64, value
        for number in (10, 11, 16, 17):
            self.values[*IF_ENTRY, number, index] = COUNTER32, low
        self.change((*IF_ENTRY, 1, index), bytes((index,)))
        self.change((*IF_ENTRY, 2, index), name)
        self.change((*IF_ENTRY, 5, index), (1_000_000).to_bytes(3, "big"))
        self.change((*IF_ENTRY, 6, index), bytes(6))
        self.change((*IF_X_ENTRY, 1, index), name)
        self.change((*IF_X_ENTRY, 18, index), "größe".encode())

    def change(self, name: Oid, value: bytes) -> None:
        self.values[name] = self.values[name][0], value

    # --- the manager's world ------------------------------------------------------------------

    def clock(self) -> float:
        return self.now_s

    def pause(self, seconds: float) -> None:
        self.now_s += seconds

    def exchange(self, octets: bytes, patience_s: float) -> bytes | None:
        asked = decode(octets)
        if not self.is_known(asked.community):
            self.bad_communities += 1
            return None
        try:
            answer = Message(RESPONSE, self.answer(asked))
        except Refused as refused:
            answer = Message(RESPONSE, asked.varbinds, refused.status, refused.index)
        answer.version, answer.community = asked.version, asked.community
        answer.request = asked.request
        return self.sent(answer, asked)

    # --- what a broken agent does otherwise ---------------------------------------------------

    def is_known(self, community: bytes) -> bool:
        return community == b"public"

    def sent(self, answer: Message, asked: Message) -> bytes | None:
        return answer.encode()

    def uptime(self) -> int:
        return int(self.now_s * 100)

    def all_values(self) -> dict[Oid, Value]:
        live = {
            UPTIME: (TIME_TICKS, self.uptime().to_bytes(4, "big")),
            BAD_COMMUNITIES: (COUNTER32, self.bad_communities.to_bytes(4, "big")),
        }
        return {**self.values, **live}

    def answer(self, asked: Message) -> list[Varbind]:
        names = [name for name, _, _ in asked.varbinds]
        if asked.kind == GET:
            return [self.got(name, asked.version) for name in names]
        if asked.kind == NEXT:
            return [self.following(name, asked.version) for name in names]
        if asked.kind == BULK:
            return self.bulk(names, asked.second, asked.third)
        assert asked.kind == SET
        return self.set()

    def set(self) -> list[Varbind]:
        raise Refused(_NOT_WRITABLE)

    def got(self, name: Oid, version: int) -> Varbind:
        found = self.all_values().get(name)
        if version == V1 and (found is None or found[0] == COUNTER64):
            return self.no_such_name(name)
        return (name, *found) if found else self.missing(name)

    def missing(self, name: Oid) -> Varbind:
        is_object = any(name[: len(one) - 1] == one[:-1] for one in self.all_values())
        return name, NO_SUCH_INSTANCE if is_object else NO_SUCH_OBJECT, b""

    def no_such_name(self, name: Oid) -> Varbind:
        raise Refused(_NO_SUCH_NAME)

    def following(self, name: Oid, version: int) -> Varbind:
        values = self.all_values()
        behind = (one for one in values if one > name and self.is_shown(values[one], version))
        found = min(behind, default=None)
        if found is None:
            return self.end(name, version)
        return (found, *values[found])

    def is_shown(self, value: Value, version: int) -> bool:
        return version != V1 or value[0] != COUNTER64

    def end(self, name: Oid, version: int) -> Varbind:
        return self.no_such_name(name) if version == V1 else (name, END_OF_VIEW, b"")

    def bulk(self, names: list[Oid], once: int, repetitions: int) -> list[Varbind]:
        found = [self.following(name, 1) for name in names[:once]]
        row = names[once:]
        for _ in range(repetitions):
            bound = [self.following(name, 1) for name in row]
            row = [name for name, _, _ in bound]
            found += bound
            if len(found) * 40 > _MOST_OCTETS or all(tag == END_OF_VIEW for _, tag, _ in bound):
                break
        return found


__all__ = ["NULL", "Agent", "Refused"]
