"""Tests requests against a tree by the rules of RFC 3416 and, for version 1, of RFC 3584."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.interfaces.interface import Counters, Interface
from probe.snmp.ber import SEQUENCE, Oid, Reader, decode_oid, encode, encode_integer
from probe.snmp.ifmib import IF_ENTRY, IF_X_ENTRY, Changes, build_columns, find_stack
from probe.snmp.message import GET, GET_BULK, GET_NEXT, SET, V1, V2C, Request
from probe.snmp.naming import MOST_ALIAS_OCTETS, Behind, describe, shorten
from probe.snmp.responder import NoAnswer, respond
from probe.snmp.tree import (
    END_OF_MIB_VIEW,
    NO_SUCH_INSTANCE,
    NO_SUCH_OBJECT,
    Column,
    Rows,
    Tree,
    encode_varbind,
)

LIMIT = 65507
Answer = tuple[int, int, list[tuple[Oid, bytes]]]


def small_tree() -> Tree:
    """Returns a tree with two columns, 64-bit ones, an empty table and a scalar.

    These are 1.3.1.{1,2}.{1,5,7}, 1.3.1.3.*, 1.3.2 and 1.3.9.0.
    """

    def number_of(column: int) -> Callable[[int], bytes]:
        return lambda row: encode_integer(10 * column + row)

    rows = Rows([(1,), (5,), (7,)])
    columns = [
        Column((1, 3, 1, number), rows, number_of(number), number == 3) for number in (1, 2, 3)
    ]
    scalar = Column((1, 3, 9), Rows([(0,)]), lambda _: encode_integer(99))
    return Tree([scalar, Column((1, 3, 2, 1), Rows([]), lambda _: b""), *columns])


def ask(
    tree: Tree, kind: int, *names: Oid, version: int = V2C, first: int = 0, second: int = 0,
    limit: int = LIMIT,
) -> Answer:  # fmt: skip
    varbinds = encode(SEQUENCE, b"".join(encode_varbind(name, b"\5\0") for name in names))
    request = Request(kind, 7, first, second, list(names), varbinds)
    octets = respond(tree, version, request, limit)
    assert len(octets) <= limit
    pdu = Reader(octets).enter(0xA2)
    assert pdu.integer() == 7
    status, index = pdu.integer(), pdu.integer()
    items, found = pdu.enter(SEQUENCE), []
    while not items.is_done:
        varbind = items.enter(SEQUENCE)
        name = decode_oid(varbind.body(6))
        found.append((name, octets[varbind.at : varbind.end]))
    return status, index, found


def test_get() -> None:
    names = [(1, 3, 1, 2, 5), (1, 3, 1, 2, 6), (1, 3, 2, 1, 1), (1, 3, 8), (1, 3, 9, 0), (1, 3)]
    assert ask(small_tree(), GET, *names) == (0, 0, [
        (names[0], encode_integer(21)), (names[1], NO_SUCH_INSTANCE),
        (names[2], NO_SUCH_INSTANCE), (names[3], NO_SUCH_OBJECT),
        (names[4], encode_integer(99)), (names[5], NO_SUCH_OBJECT),
    ])  # fmt: skip


def test_get_next() -> None:
    tree = small_tree()
    expected = {
        (0, 0): (1, 3, 1, 1, 1), (1, 3, 1, 1): (1, 3, 1, 1, 1), (1, 3, 1, 1, 1): (1, 3, 1, 1, 5),
        (1, 3, 1, 1, 5, 9): (1, 3, 1, 1, 7), (1, 3, 1, 1, 7): (1, 3, 1, 2, 1),
        (1, 3, 1, 3, 7): (1, 3, 9, 0),
    }  # fmt: skip
    for name, following in expected.items():
        assert ask(tree, GET_NEXT, name)[2][0][0] == following
    assert ask(tree, GET_NEXT, (1, 3, 9, 0)) == (0, 0, [((1, 3, 9, 0), END_OF_MIB_VIEW)])


def test_version_1_has_errors_for_exceptions_and_no_64_bits() -> None:
    tree = small_tree()
    missing = (1, 3, 8)
    status, index, varbinds = ask(tree, GET, (1, 3, 9, 0), missing, version=V1)
    assert (status, index) == (2, 2)
    assert varbinds == [((1, 3, 9, 0), b"\5\0"), (missing, b"\5\0")]
    assert ask(tree, GET, (1, 3, 1, 3, 1), version=V1)[:2] == (2, 1)
    assert ask(tree, GET_NEXT, (1, 3, 1, 2, 7), version=V1)[2][0][0] == (1, 3, 9, 0)
    assert ask(tree, GET_NEXT, (1, 3, 9, 0), version=V1)[:2] == (2, 1)
    with pytest.raises(NoAnswer):
        ask(tree, GET_BULK, (1, 3), version=V1)


def walk(tree: Tree) -> list[Oid]:
    found: list[Oid] = []
    name: Oid = (0, 0)
    while True:
        ((name, value),) = ask(tree, GET_NEXT, name)[2]
        if value == END_OF_MIB_VIEW:
            return found
        found.append(name)


@given(
    st.lists(st.sampled_from([(1, 3), (1, 3, 1, 1, 5), (1, 3, 1, 3, 7), (1, 3, 9, 0), (1, 4)]),
             max_size=5),
    st.integers(-2, 7), st.integers(-2, 30),
)  # fmt: skip
def test_get_bulk_is_many_get_nexts(names: list[Oid], first: int, second: int) -> None:
    """RFC 3416 section 4.2.3 defines GETBULK by GETNEXTs."""
    tree = small_tree()
    once = max(0, min(first, len(names)))
    expected = [ask(tree, GET_NEXT, name)[2][0] for name in names[:once]]
    repeated = names[once:]
    for _ in range(max(0, second)):
        round_ = [ask(tree, GET_NEXT, name)[2][0] for name in repeated]
        expected += round_
        repeated = [name for name, _ in round_]
        if all(value == END_OF_MIB_VIEW for _, value in round_):
            break
    assert ask(tree, GET_BULK, *names, first=first, second=second) == (0, 0, expected)


@pytest.mark.parametrize("limit", [60, 100, 140])
def test_get_bulk_is_cut_where_no_more_fits(limit: int) -> None:
    tree = small_tree()
    whole = ask(tree, GET_BULK, (1, 3), second=2**31 - 1)[2]
    assert [name for name, _ in whole][:-1] == walk(tree)
    status, index, part = ask(tree, GET_BULK, (1, 3), second=2**31 - 1, limit=limit)
    assert (status, index) == (0, 0)
    assert part == whole[: len(part)]
    assert 0 < len(part) < len(whole)


def test_too_big() -> None:
    names = [(1, 3, 9, 0)] * 100
    assert ask(small_tree(), GET, *names, limit=500) == (1, 0, [])
    pdu_v1 = ask(small_tree(), GET, *names[:20], limit=220, version=V1)
    assert pdu_v1[:2] == (1, 0)
    assert len(pdu_v1[2]) == 20


def test_nothing_can_be_written() -> None:
    tree = small_tree()
    assert ask(tree, SET, (1, 3, 9, 0))[:2] == (17, 1)
    assert ask(tree, SET, (1, 3, 8, 0))[:2] == (11, 1)
    assert ask(tree, SET, (1, 3, 9, 0), version=V1)[:2] == (2, 1)


LINKS = [
    Interface(1, "lo", type=24, mtu=65536, is_admin_up=True, oper_status=1,
         address=bytes(6)),
    Interface(3, "br0", kind="bridge", type=209),
    Interface(7, "veth7", kind="veth", type=6, speed=10_000_000_000, master=3, peer=2, peer_nsid=0,
         address=bytes(range(6)), since_s=50.0, changed_s=60.0,
         counters=Counters(2**33 + 5, 2**32 + 9, 4, 1, 2, 2**34 + 6, 8, 3, 4)),
    Interface(9, "eth0", type=6, speed=1_000_000_000, is_promiscuous=True, alias="uplink"),
    Interface(12, "eth0.5", kind="vlan", type=135, peer=9),
    Interface(13, "sit0", kind="sit", type=131, address=bytes((192, 0, 2, 1))),
]  # fmt: skip


def values(entry: Oid, number: int, index: int) -> bytes:
    behind = {7: Behind("shop/web-1/nginx", "eth0")}
    tree = Tree(build_columns(LINKS, behind, lambda time_s: int(time_s * 100), Changes(5, 6)))
    ((_, value),) = ask(tree, GET, (*entry, number, index))[2]
    return value


def number(octets: bytes) -> int:
    return int.from_bytes(octets[2:], "big")


def test_counters_of_32_and_64_bits() -> None:
    assert number(values(IF_ENTRY, 10, 7)) == 5
    assert number(values(IF_X_ENTRY, 6, 7)) == 2**33 + 5
    assert number(values(IF_ENTRY, 11, 7)) == 5  # without multicast
    assert number(values(IF_X_ENTRY, 7, 7)) == 2**32 + 5
    assert number(values(IF_X_ENTRY, 8, 7)) == 4
    assert [number(values(IF_ENTRY, at, 7)) for at in (13, 14, 17, 19, 20)] == [2, 1, 8, 4, 3]


def test_other_columns() -> None:
    assert values(IF_ENTRY, 2, 7)[2:] == b"veth7 (eth0 in shop/web-1/nginx)"
    assert values(IF_X_ENTRY, 1, 7)[2:] == b"veth7"
    assert values(IF_X_ENTRY, 18, 7)[2:] == b"shop/web-1/nginx"
    assert values(IF_X_ENTRY, 18, 9)[2:] == b"uplink"
    addresses = [values(IF_ENTRY, 6, index)[2:] for index in (1, 7, 13)]
    assert addresses == [b"", bytes(range(6)), b""]
    assert number(values(IF_ENTRY, 5, 7)) == 2**32 - 1
    assert number(values(IF_X_ENTRY, 15, 7)) == 10_000
    assert number(values(IF_ENTRY, 5, 9)) == 1_000_000_000
    assert [number(values(IF_X_ENTRY, 17, index)) for index in (1, 3, 7, 9)] == [2, 2, 2, 1]
    assert [number(values(IF_X_ENTRY, 16, index)) for index in (7, 9)] == [2, 1]
    assert number(values(IF_ENTRY, 9, 7)) == 6000
    assert number(values(IF_X_ENTRY, 19, 7)) == 5000


def test_the_stack() -> None:
    assert find_stack(LINKS) == [
        (0, 1), (0, 3), (0, 12), (0, 13), (1, 0), (3, 7), (7, 0), (9, 0), (12, 9), (13, 0),
    ]  # fmt: skip
    gone = [replace(link, master=99) for link in LINKS]
    assert (3, 0) in find_stack(gone)


def test_aliases_end_in_a_hash_where_they_are_cut() -> None:
    assert shorten("web") == "web"
    assert shorten("x" * 64) == "x" * 64
    long = "production/" + "größe-" * 20 + "nginx"
    found = shorten(long)
    assert len(found.encode()) <= MOST_ALIAS_OCTETS
    assert found.startswith("…")
    assert "nginx~" in found
    assert found != shorten("Production/" + "größe-" * 20 + "nginx")
    assert describe("veth1", Behind()) == "veth1"
    assert describe("veth1", Behind("web", "")) == "veth1 (web)"
    assert len(describe("veth1", Behind("ü" * 300, "eth0")).encode()) <= 255


@given(st.text(max_size=200))
def test_any_alias_fits_and_is_text(text: str) -> None:
    assert len(shorten(text).encode("utf-8", "replace")) <= MOST_ALIAS_OCTETS
