"""Checks requests: RFC 3416, RFC 2576, and large ones."""

from __future__ import annotations

from tests.support.snmp.checks import (
    BAD_COMMUNITIES,
    IF_ENTRY,
    IF_X_ENTRY,
    MIB2,
    SYSTEM,
    UPTIME,
    Seen,
    check,
)
from tests.support.snmp.manager import IN_VAIN_S
from tests.support.snmp.wire import (
    BULK,
    COUNTER64,
    END_OF_VIEW,
    GET,
    NEXT,
    NO_SUCH_INSTANCE,
    NO_SUCH_OBJECT,
    OCTETS,
    SET,
    V1,
    Message,
    Oid,
    unsigned,
)

_NO_SUCH_NAME, _NO_ACCESS, _NOT_WRITABLE, _TOO_BIG = 2, 6, 17, 1
_BEHIND_ALL: Oid = (1, 3, 6, 1, 9999)
_NOBODYS: Oid = (*MIB2, 99, 1, 0)
_CONTACT, _NAME = (*SYSTEM, 4, 0), (*SYSTEM, 5, 0)


def _first(answer: Message | None) -> tuple[Oid, int]:
    """Returns name and tag of an answer without error."""
    if answer is None or answer.second:
        raise ValueError(answer)
    return answer.varbinds[0][:2]


def _is_refused(answer: Message | None, *statuses: int) -> bool:
    return answer is not None and answer.second in statuses and answer.third == 1


@check("GET of a missing row: noSuchInstance")
def _(seen: Seen) -> object:
    name = (*IF_ENTRY, 2, 99_999_999)
    return _first(seen.manager.ask(GET, [name])) == (name, NO_SUCH_INSTANCE)


@check("GET of an unknown object: noSuchObject")
def _(seen: Seen) -> object:
    return _first(seen.manager.ask(GET, [_NOBODYS])) == (_NOBODYS, NO_SUCH_OBJECT)


@check("GET answers in the order of the question")
def _(seen: Seen) -> object:
    names = [_NAME, _NOBODYS, _CONTACT]
    found = seen.manager.get(*names)
    return [one[0] for one in found] == names and found[1][1] == NO_SUCH_OBJECT


@check("GETNEXT behind all: endOfMibView under the same name")
def _(seen: Seen) -> object:
    return _first(seen.manager.ask(NEXT, [_BEHIND_ALL])) == (_BEHIND_ALL, END_OF_VIEW)


@check("version 1, GET of what is not there: noSuchName")
def _(seen: Seen) -> object:
    return _is_refused(seen.manager.ask(GET, [_NOBODYS], version=V1), _NO_SUCH_NAME)


@check("version 1, GET of a Counter64: noSuchName")
def _(seen: Seen) -> object:
    name = (*IF_X_ENTRY, 6, seen.indices[0])
    return _is_refused(seen.manager.ask(GET, [name], version=V1), _NO_SUCH_NAME)


@check("version 1, GETNEXT leaves out Counter64")
def _(seen: Seen) -> object:
    name = (*IF_X_ENTRY, 5, seen.indices[-1])
    found, tag = _first(seen.manager.ask(NEXT, [name], version=V1))
    return tag != COUNTER64 and found > name


@check("version 1, GETNEXT behind all: noSuchName")
def _(seen: Seen) -> object:
    return _is_refused(seen.manager.ask(NEXT, [_BEHIND_ALL], version=V1), _NO_SUCH_NAME)


@check("GETBULK without repetitions: an empty answer")
def _(seen: Seen) -> object:
    answer = seen.manager.ask(BULK, [MIB2], 0, 0)
    return answer and not answer.second and not answer.varbinds


@check("GETBULK asks non-repeaters once")
def _(seen: Seen) -> object:
    answer = seen.manager.ask(BULK, [(*SYSTEM, 1), (*IF_ENTRY, 1)], 1, 5)
    return answer and len(answer.varbinds) == 6 and answer.varbinds[0][0] == (*SYSTEM, 1, 0)


@check("GETBULK of 100 names is answered")
def _(seen: Seen) -> object:
    answer = seen.manager.ask(BULK, [(*IF_ENTRY, 1)] * 100, 0, 2)
    return answer and not answer.second and answer.varbinds


@check("GETBULK of 2147483647 repetitions is cut")
def _(seen: Seen) -> object:
    answer = seen.manager.ask(BULK, [IF_ENTRY], 0, 2**31 - 1)
    return answer and answer.second in (0, _TOO_BIG)


@check("GETBULK of more than a datagram is cut")
def _(seen: Seen) -> object:
    answer = seen.manager.ask(BULK, [(*IF_X_ENTRY, 1)] * 40, 0, 500)
    return answer and answer.second in (0, _TOO_BIG)


@check("GET of 128 names is answered whole")
def _(seen: Seen) -> object:
    names = [(*IF_ENTRY, 2, index) for index in (seen.indices * 128)[:128]]
    answer = seen.manager.ask(GET, names)
    if answer and answer.second == _TOO_BIG:
        return True
    return answer and [one[0] for one in answer.varbinds] == names


@check("GET of 2500 names is answered, or tooBig")
def _(seen: Seen) -> object:
    names = [(*IF_X_ENTRY, 18, index) for index in (seen.indices * 2500)[:2500]]
    answer = seen.manager.ask(GET, names)
    return answer and (answer.second == _TOO_BIG or len(answer.varbinds) == 2500)


@check("SET is refused")
def _(seen: Seen) -> object:
    name = (*IF_X_ENTRY, 18, seen.indices[0])
    answer = seen.manager.ask(SET, [name], value=(OCTETS, b"x"))
    return _is_refused(answer, _NOT_WRITABLE, _NO_ACCESS)


@check("a wrong community has no answer, and is counted")
def _(seen: Seen) -> object:
    before = unsigned(seen.manager.get(BAD_COMMUNITIES)[0][2])
    answer = seen.manager.ask(GET, [_NAME], community=b"wrong", patience_s=IN_VAIN_S)
    return answer is None and unsigned(seen.manager.get(BAD_COMMUNITIES)[0][2]) > before


@check("the agent answers to the end")
def _(seen: Seen) -> object:
    return seen.manager.get(UPTIME)
