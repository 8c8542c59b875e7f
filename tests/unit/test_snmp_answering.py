"""Tests what happens to a datagram: it is answered, refused, left to pysnmp or counted."""

from __future__ import annotations

import logging

import pytest

from probe.interfaces.interface import Interface
from probe.snmp.answering import Answering
from probe.snmp.ber import (
    NULL,
    OCTET_STRING,
    SEQUENCE,
    TIME_TICKS,
    BerError,
    encode,
    encode_integer,
)
from probe.snmp.message import (
    GET,
    GET_BULK,
    SET,
    V1,
    V2C,
    V3,
    check_version3,
    encode_message,
)
from probe.snmp.settings import SnmpSettings
from probe.snmp.tree import encode_varbind
from probe.snmp.view import AgentView

UPTIME = encode_varbind((1, 3, 6, 1, 2, 1, 1, 3, 0), encode(NULL, b""))


class Agent:
    def __init__(self, has_users: bool = True) -> None:
        self.now = 1000.0
        self.view = AgentView(SnmpSettings(), list, 32473, monotonic=lambda: self.now)
        self.passed_on = 0
        self._answering = Answering(self.view, ("reader",), has_users, lambda: self.now)

    def ask(self, datagram: bytes) -> bytes | None:
        return self._answering.answer(datagram, "192.0.2.9", self._pass_on)

    def _pass_on(self) -> None:
        self.passed_on += 1


def message(version: int = V2C, community: bytes = b"reader", kind: int = GET) -> bytes:
    numbers = b"".join(map(encode_integer, (7, 0, 0)))
    return encode_message(version, community, encode(kind, numbers + encode(SEQUENCE, UPTIME)))


def version3(model: int = 3, flags: bytes = b"\4", behind: bytes = b"", name: str = "al") -> bytes:
    header = encode_integer(9) + encode_integer(65507) + encode(OCTET_STRING, flags)
    engine, user = encode(OCTET_STRING, b""), encode(OCTET_STRING, name.encode())
    around = engine + encode_integer(0) + encode_integer(0) + user + engine + engine
    return encode(
        SEQUENCE,
        encode_integer(V3)
        + encode(SEQUENCE, header + encode_integer(model))
        + encode(OCTET_STRING, encode(SEQUENCE, around) + behind)
        + encode(SEQUENCE, b""),
    )


def test_who_knows_the_community_is_answered() -> None:
    agent = Agent()
    for version in (V1, V2C):
        answer = agent.ask(message(version))
        assert answer
        assert b"reader" in answer
    assert (agent.view.counted.received, agent.view.counted.malformed) == (2, 0)


def test_a_wrong_community_is_refused_before_the_rest_is_decoded() -> None:
    """Its rest is not decoded, so it does not count as malformed."""
    agent = Agent()
    broken = encode(SEQUENCE, encode_integer(V2C) + encode(OCTET_STRING, b"wrong") + b"\xa0\x7f")
    for datagram in (message(community=b"wrong"), message(community=b""), broken):
        assert agent.ask(datagram) is None
    assert (agent.view.counted.bad_communities, agent.view.counted.malformed) == (3, 0)


def test_nothing_is_written_and_who_tries_is_counted() -> None:
    agent = Agent()
    assert agent.ask(message(kind=SET))
    assert agent.view.counted.bad_uses == 1


def test_malformed_messages_are_counted_and_told_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("probe"), "propagate", True)
    agent = Agent()
    for datagram in (b"", b"x", message()[:-1], message(V1, kind=GET_BULK), version3()[:-1]):
        assert agent.ask(datagram) is None
    assert agent.view.counted.malformed == 5
    assert [record.getMessage() for record in caplog.records] == [
        "1 malformed SNMP messages, the last from 192.0.2.9: an item is cut off"
    ]
    agent.now += 61
    agent.ask(b"x")
    assert caplog.records[-1].getMessage().startswith("5 malformed")
    assert len(caplog.records) == 2


def test_version_3_is_for_pysnmp_where_there_are_users() -> None:
    agent, nobody = Agent(), Agent(has_users=False)
    assert agent.ask(version3()) is None
    assert nobody.ask(version3()) is None
    assert (agent.passed_on, nobody.passed_on) == (1, 0)
    assert (agent.view.counted.received, nobody.view.counted.bad_versions) == (1, 1)


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (version3(model=1), "not USM"),
        (version3(flags=b""), "flags"),
        (version3(name="x" * 33), "too many octets"),
        (version3(behind=b"\5\0"), "octets behind"),
        (version3() + b"\0", "octets behind"),
        (version3()[:-1], "longer than"),
    ],
)
def test_what_is_not_whole_does_not_reach_pysnmp(datagram: bytes, reason: str) -> None:
    with pytest.raises(BerError, match=reason):
        check_version3(datagram)
    agent = Agent()
    assert agent.ask(datagram) is None
    assert (agent.passed_on, agent.view.counted.malformed) == (0, 1)


def test_changes_are_of_when_the_kernel_told_of_them() -> None:
    """The time is when the kernel reported the change, not when a client next asked."""
    links: list[Interface] = []
    now = 50.0
    view = AgentView(SnmpSettings(), lambda: links, 1, lambda: now, lambda: now)
    assert _table_change(view) == encode_integer(0, TIME_TICKS)
    links.append(Interface(4, "veth4"))
    now = 57.0
    view.invalidate()
    now = 99.0
    assert _table_change(view) == encode_integer(700, TIME_TICKS)


def _table_change(view: AgentView) -> bytes:
    tree = view.tree()
    found = tree.find((1, 3, 6, 1, 2, 1, 31, 1, 5, 0))
    assert not isinstance(found, bytes)
    return tree.columns[found[0]].encode(found[1])
