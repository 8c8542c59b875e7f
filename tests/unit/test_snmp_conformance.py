"""Tests the check of SNMP agents with an agent that keeps every rule, and one broken for each."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.snmp import CHECKS, Manager, broken
from tests.support.snmp.agent import Agent, Refused
from tests.support.snmp.checks import IF_ENTRY, IF_NUMBER, IF_X_ENTRY, SYSTEM, TABLE_CHANGE
from tests.support.snmp.wire import (
    BULK,
    COUNTER32,
    GAUGE32,
    GET,
    NEXT,
    NO_SUCH_INSTANCE,
    NO_SUCH_OBJECT,
    SET,
    V1,
    Malformed,
    Message,
    Oid,
    Varbind,
    decode,
    integer,
    oid,
    tlv,
)

Broken = Callable[[], Agent]
BROKEN: list[tuple[str, Broken]] = []


def breaks(rule: str) -> Callable[[Broken], Broken]:
    def note(made: Broken) -> Broken:
        BROKEN.append((rule, made))
        return made

    return note


def changed(*changes: tuple[Oid, bytes]) -> Broken:
    def make() -> Agent:
        agent = Agent()
        for name, value in changes:
            agent.change(name, value)
        return agent

    return make


def asked_by(agent: Agent) -> Manager:
    return Manager(agent.exchange, clock=agent.clock, pause=agent.pause)


def test_an_agent_that_keeps_every_rule() -> None:
    assert broken(asked_by(Agent())) == []


def test_an_agent_that_is_not_there() -> None:
    manager = Manager(lambda octets, patience_s: None, pause=lambda seconds: None)
    assert broken(manager) == list(CHECKS)


@breaks("a GETNEXT walk goes forward")
class _Backwards(Agent):
    def following(self, name: Oid, version: int) -> Varbind:
        found = super().following(name, version)
        return ((*SYSTEM, 1, 0), *found[1:]) if found[0] == (*SYSTEM, 5, 0) else found


@breaks("GETBULK shows what GETNEXT shows")
class _Forgetful(Agent):
    def bulk(self, names: list[Oid], once: int, repetitions: int) -> list[Varbind]:
        hidden = (*IF_X_ENTRY, 2, 7)
        return [one for one in super().bulk(names, once, repetitions) if one[0] != hidden]


BROKEN += [
    ("ifIndex is the index of its row", changed(((*IF_ENTRY, 1, 7), b"\6"))),
    ("ifNumber is the number of rows", changed((IF_NUMBER, b"\3"))),
    ("ifName is there and unique", changed(((*IF_X_ENTRY, 1, 7), b"lo"))),
    ("ifName is there and unique", changed(((*IF_X_ENTRY, 1, 7), b""))),
    ("DisplayStrings have at most 255 octets", changed(((*IF_ENTRY, 2, 7), b"x" * 256))),
    ("ifAlias has at most 64 octets of whole characters",
     changed(((*IF_X_ENTRY, 18, 7), b"x" * 65))),
    ("ifAlias has at most 64 octets of whole characters",
     changed(((*IF_X_ENTRY, 18, 7), "ö".encode()[:1]))),
    ("ifPhysAddress has 6 octets or none", changed(((*IF_ENTRY, 6, 7), bytes(5)))),
    ("states have values that are named", changed(((*IF_ENTRY, 8, 7), b"\x08"))),
    ("TruthValues are 1 or 2", changed(((*IF_X_ENTRY, 16, 7), b"\0"))),
    ("ifSpeed is ifHighSpeed, or its own maximum", changed(((*IF_X_ENTRY, 15, 7), b"\x2d"))),
    ("ifSpeed is ifHighSpeed, or its own maximum",
     changed(((*IF_X_ENTRY, 15, 7), b"\x27\x10"), ((*IF_ENTRY, 5, 7), b"\1"))),
    ("Counter32 is the lower half of Counter64", changed(((*IF_ENTRY, 16, 7), b"\x0c"))),
    ("no change is later than sysUpTime", changed(((*IF_ENTRY, 9, 7), b"\x7f\xff\xff\xff"))),
    ("no change is later than sysUpTime", changed((TABLE_CHANGE, b"\x7f\xff\xff\xff"))),
]  # fmt: skip


@breaks("every column has every row")
def _() -> Agent:
    agent = Agent()
    del agent.values[*IF_ENTRY, 13, 7]
    return agent


@breaks("every column has its type")
def _() -> Agent:
    agent = Agent()
    agent.values[*IF_X_ENTRY, 2, 7] = GAUGE32, b"\1"
    return agent


@breaks("ifTableLastChange is a time")
def _() -> Agent:
    agent = Agent()
    agent.values[TABLE_CHANGE] = COUNTER32, b"\5"
    return agent


@breaks("sysUpTime runs in hundredths of a second")
class _Seconds(Agent):
    def uptime(self) -> int:
        return int(self.now_s)


@breaks("GET of a missing row: noSuchInstance")
class _NoRow(Agent):
    def missing(self, name: Oid) -> Varbind:
        return name, NO_SUCH_OBJECT, b""


@breaks("GET of an unknown object: noSuchObject")
class _NoObject(Agent):
    """Breaks the rule for single answers only; the next rule has the same answer among others."""

    def answer(self, asked: Message) -> list[Varbind]:
        found = super().answer(asked)
        if len(found) == 1 and found[0][1] == NO_SUCH_OBJECT:
            return [(found[0][0], NO_SUCH_INSTANCE, b"")]
        return found


@breaks("GET answers in the order of the question")
class _Sorted(Agent):
    def answer(self, asked: Message) -> list[Varbind]:
        found = super().answer(asked)
        return sorted(found) if asked.kind == GET and len(found) == 3 else found


@breaks("GETNEXT behind all: endOfMibView under the same name")
class _OtherEnd(Agent):
    def end(self, name: Oid, version: int) -> Varbind:
        found = super().end(name, version)
        return ((1, 3), *found[1:]) if len(name) == 5 else found


@breaks("version 1, GET of what is not there: noSuchName")
class _ExceptionsInV1(Agent):
    def got(self, name: Oid, version: int) -> Varbind:
        return super().got(name, 1 if name not in self.values else version)


@breaks("version 1, GET of a Counter64: noSuchName")
class _Counter64InV1(Agent):
    def got(self, name: Oid, version: int) -> Varbind:
        return super().got(name, 1 if name in self.values else version)


@breaks("version 1, GETNEXT leaves out Counter64")
class _Counter64Behind(Agent):
    def is_shown(self, value: tuple[int, bytes], version: int) -> bool:
        return True


@breaks("version 1, GETNEXT behind all: noSuchName")
class _EndInV1(Agent):
    def end(self, name: Oid, version: int) -> Varbind:
        return super().end(name, 1)


@breaks("GETBULK without repetitions: an empty answer")
class _AtLeastOne(Agent):
    def bulk(self, names: list[Oid], once: int, repetitions: int) -> list[Varbind]:
        return super().bulk(names, once, max(repetitions, 1))


@breaks("GETBULK asks non-repeaters once")
class _AllRepeat(Agent):
    def bulk(self, names: list[Oid], once: int, repetitions: int) -> list[Varbind]:
        return super().bulk(names, 0, repetitions)


class _Silent(Agent):
    """Does not answer requests that are too large."""

    kind, names, repetitions = BULK, 0, 0

    def sent(self, answer: Message, asked: Message) -> bytes | None:
        is_much = len(asked.varbinds) >= self.names and asked.third >= self.repetitions
        return None if asked.kind == self.kind and is_much else super().sent(answer, asked)


@breaks("GETBULK of 100 names is answered")
class _ManyNames(_Silent):
    names = 100


@breaks("GETBULK of 2147483647 repetitions is cut")
class _ManyRepetitions(_Silent):
    repetitions = 2**31 - 1


@breaks("GETBULK of more than a datagram is cut")
class _ManyOctets(_Silent):
    names, repetitions = 40, 500


@breaks("GET of 2500 names is answered, or tooBig")
class _ManyValues(_Silent):
    kind, names = GET, 2500


@breaks("GET of 128 names is answered whole")
class _Half(Agent):
    def answer(self, asked: Message) -> list[Varbind]:
        found = super().answer(asked)
        return found[:64] if len(found) == 128 else found


@breaks("SET is refused")
class _Writable(Agent):
    def set(self) -> list[Varbind]:
        return []


@breaks("SET is refused")
class _SetWithoutIndex(Agent):
    def set(self) -> list[Varbind]:
        raise Refused(17, 0)


@breaks("a wrong community has no answer, and is counted")
class _Open(Agent):
    def is_known(self, community: bytes) -> bool:
        self.bad_communities += community != b"public"
        return True


@breaks("a wrong community has no answer, and is counted")
class _Uncounted(Agent):
    def is_known(self, community: bytes) -> bool:
        self.bad_communities -= community != b"public"
        return super().is_known(community)


@breaks("the agent answers to the end")
class _Dies(Agent):
    """Ends after a request with a wrong community."""

    is_dead = False

    def sent(self, answer: Message, asked: Message) -> bytes | None:
        is_last = asked.varbinds[0][0] == (*SYSTEM, 3, 0) and self.bad_communities
        return None if is_last else super().sent(answer, asked)


@pytest.mark.parametrize(
    ("rule", "made"), [pytest.param(*one, id=f"{one[0]}-{at}") for at, one in enumerate(BROKEN)]
)
def test_a_broken_agent(rule: str, made: Broken) -> None:
    """The check finds this rule, and no other where a walk is possible."""
    found = broken(asked_by(made()))
    assert found[:1] == [rule]
    assert len(found) == 1 or made is _Backwards, found


def test_every_rule_has_an_agent_that_breaks_it() -> None:
    assert {rule for rule, _ in BROKEN} == CHECKS.keys()


@pytest.mark.parametrize("field", ["kind", "request", "version", "community"])
def test_an_answer_to_another_question(field: str) -> None:
    class Confused(Agent):
        def sent(self, answer: Message, asked: Message) -> bytes | None:
            wrong = {"kind": NEXT, "request": asked.request + 1, "version": V1, "community": b"x"}
            setattr(answer, field, wrong[field])
            return answer.encode()

    with pytest.raises(Malformed):
        asked_by(Confused()).get((*SYSTEM, 5, 0))


@pytest.mark.parametrize("value", [0, 1, 127, 128, 255, 256, 2**31 - 1, 2**31, 2**63, -1, -129])
def test_numbers_go_round(value: int) -> None:
    assert integer(value)[1] == len(integer(value)) - 2
    name: Oid = (1, 3, 6, 1, abs(value), 0, 16383, 16384)
    asked = Message(SET, [(name, 4, b"x" * abs(value % 70000))], request=abs(value) % 2**31)
    assert decode(asked.encode()) == asked


def test_octets_by_the_book() -> None:
    """X.690: the octets of 1.3.6.1.4.1.311, and the length of 128 octets."""
    assert oid((1, 3, 6, 1, 4, 1, 311)) == bytes.fromhex("06072b060104018237")
    assert tlv(4, bytes(128))[:3] == b"\4\x81\x80"


@pytest.mark.parametrize("cut", [1, 2, 10, 25])
def test_a_message_that_is_cut(cut: int) -> None:
    octets = Message(GET, [((*SYSTEM, 5, 0), 5, b"")]).encode()
    with pytest.raises(Malformed):
        decode(octets[:-cut])
    with pytest.raises(Malformed):
        decode(octets + octets[:cut])
