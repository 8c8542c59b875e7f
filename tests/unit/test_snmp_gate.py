"""Tests the kernel's filter in front of the agent with real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from probe.snmp.ber import OCTET_STRING, SEQUENCE, encode, encode_integer
from probe.snmp.gate import assemble, attach_gate, count_refused
from probe.snmp.message import V1, V2C
from tests.unit.test_snmp_answering import message, version3

SENT = 64


class Gate:
    def __init__(self, communities: tuple[str, ...], has_users: bool) -> None:
        self.inside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.inside.bind(("127.0.0.1", 0))
        self.inside.setblocking(False)
        attach_gate(self.inside, communities, has_users)

    def passes(self, datagram: bytes) -> int:
        """Returns how many of ``SENT`` datagrams came through.

        Loopback delivers before send returns.
        """
        came = 0
        for _ in range(SENT):
            self.outside.sendto(datagram, self.inside.getsockname())
            try:
                came += self.inside.recv(65536) == datagram
            except BlockingIOError:
                continue
        return came

    def close(self) -> None:
        self.inside.close()
        self.outside.close()


@pytest.fixture
def gate() -> Iterator[Gate]:
    found = Gate(("public", "a-much-longer-community", "x"), has_users=True)
    yield found
    found.close()


@pytest.mark.parametrize("community", [b"public", b"a-much-longer-community", b"x"])
@pytest.mark.parametrize("version", [V1, V2C])
def test_each_community_passes(gate: Gate, community: bytes, version: int) -> None:
    assert gate.passes(message(version, community)) == SENT
    assert count_refused(gate.inside) == 0


@pytest.mark.parametrize("octets", [1, 2, 3, 4])
def test_lengths_in_their_long_form_pass(gate: Gate, octets: int) -> None:
    """Net-snmp writes the SEQUENCE's length in two octets.

    Other programs use more, and for strings, too.
    """
    form = bytes([0x80 | octets])
    rest = b"\xa0\x00" * 4
    text = b"\x04" + form + (6).to_bytes(octets, "big") + b"public"
    body = encode_integer(V2C) + text + rest
    whole = b"\x30" + form + len(body).to_bytes(octets, "big") + body
    assert gate.passes(whole) == SENT


@pytest.mark.parametrize(
    "datagram",
    [
        message(community=b"Public"),
        message(community=b"publi"),
        message(community=b"public2"),
        message(community=b""),
        message(community=b"y" * 300),
        message(version=2, community=b"public"),
        encode(SEQUENCE, encode(OCTET_STRING, b"public")),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x30\x85\x00\x00\x00\x00\x09" + b"\0" * 40,
        b"\x30",
        b"",
    ],
)
def test_what_names_no_community_is_refused_and_counted(gate: Gate, datagram: bytes) -> None:
    came = gate.passes(datagram)
    assert came < SENT // 2  # chance passes 1 in 16: half of 64 in one of 10^20 runs
    assert came + count_refused(gate.inside) == SENT


def test_version_3_passes_only_where_there_are_users(gate: Gate) -> None:
    assert gate.passes(version3()) == SENT
    without = Gate(("public",), has_users=False)
    assert without.passes(version3()) < SENT // 2
    without.close()


def test_too_many_or_too_long_communities_have_no_gate() -> None:
    assert assemble([b"x" * 201], False) is None
    assert assemble([b"%03d" % number * 30 for number in range(200)], False) is None
    open_to_all = Gate(("x" * 201,), has_users=False)
    assert open_to_all.passes(b"anything") == SENT
    open_to_all.close()


def test_without_communities_only_version_3_comes_in() -> None:
    only_users = Gate((), has_users=True)
    assert only_users.passes(version3()) == SENT
    assert only_users.passes(message()) < SENT // 2
    only_users.close()
