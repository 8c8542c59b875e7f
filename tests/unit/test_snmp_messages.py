"""Tests BER and SNMP messages against pyasn1 and pysnmp's own declarations."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyasn1.codec.ber import decoder, encoder
from pyasn1.type.univ import Integer, ObjectIdentifier, OctetString
from pysnmp.proto import rfc1902
from pysnmp.proto.api import v2c

from probe.snmp.ber import (
    COUNTER64,
    GAUGE32,
    OBJECT_IDENTIFIER,
    OCTET_STRING,
    BerError,
    Reader,
    decode_oid,
    encode,
    encode_integer,
    encode_oid_body,
)
from probe.snmp.message import (
    GET_BULK,
    V2C,
    decode_request,
    encode_message,
    open_message,
    read_version,
)

ARCS = st.lists(st.integers(0, 2**32 - 1), max_size=60)


@given(st.integers(-(2**31), 2**31 - 1))
def test_integers(value: int) -> None:
    octets = encode_integer(value)
    assert decoder.decode(octets) == (Integer(value), b"")
    assert Reader(octets).integer() == value


@given(st.integers(0, 2**64 - 1))
def test_unsigned_kinds(value: int) -> None:
    assert encode_integer(value, COUNTER64) == encoder.encode(rfc1902.Counter64(value))
    if value < 2**32:
        assert encode_integer(value, GAUGE32) == encoder.encode(rfc1902.Gauge32(value))


@given(st.sampled_from([(1, 3), (0, 0), (2, 39), (1, 39)]), ARCS)
def test_object_identifiers(first: tuple[int, int], rest: list[int]) -> None:
    name = (*first, *rest)
    octets = encode(OBJECT_IDENTIFIER, encode_oid_body(name))
    assert octets == encoder.encode(ObjectIdentifier(name))
    assert decode_oid(Reader(octets).body(OBJECT_IDENTIFIER)) == name


@pytest.mark.parametrize("size", [0, 127, 128, 255, 256, 70_000])
def test_lengths(size: int) -> None:
    body = bytes(size)
    octets = encode(OCTET_STRING, body)
    assert octets == encoder.encode(OctetString(body))
    assert Reader(octets).body(OCTET_STRING) == body


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "without an end"),
        (b"\x2b\x86", "without an end"),
        (b"\x2b" + b"\x90\x80\x80\x80\x00", "32 bits"),
        (b"\x2b" + b"\x01" * 127, "more than 128 arcs"),
    ],
)
def test_object_identifiers_that_are_none(body: bytes, reason: str) -> None:
    with pytest.raises(BerError, match=reason):
        decode_oid(body)


def test_an_object_identifier_of_128_arcs() -> None:
    assert len(decode_oid(b"\x2b" + b"\x01" * 126)) == 128


def request_of_pysnmp(names: list[tuple[int, ...]], first: int, second: int) -> bytes:
    pdu = v2c.GetBulkRequestPDU()
    v2c.apiBulkPDU.set_defaults(pdu)
    v2c.apiBulkPDU.set_request_id(pdu, 123456789)
    v2c.apiBulkPDU.set_non_repeaters(pdu, first)
    v2c.apiBulkPDU.set_max_repetitions(pdu, second)
    v2c.apiBulkPDU.set_varbinds(pdu, [(name, v2c.null) for name in names])
    message = v2c.Message()
    v2c.apiMessage.set_defaults(message)
    v2c.apiMessage.set_community(message, "gr\xc3\xb6\xc3\x9fe")
    v2c.apiMessage.set_pdu(message, pdu)
    octets: bytes = encoder.encode(message)
    return octets


def test_a_request_of_pysnmp() -> None:
    names = [(1, 3, 6, 1, 2, 1, 1), (1, 3, 6, 1, 4, 1, 2**32 - 1, 200)]
    octets = request_of_pysnmp(names, 1, 50)
    assert read_version(octets) == V2C
    community, rest = open_message(octets)
    assert community == "größe".encode()
    request = decode_request(rest)
    assert (request.kind, request.request_id) == (GET_BULK, 123456789)
    assert (request.first, request.second, request.names) == (1, 50, names)
    again, left = decoder.decode(octets, asn1Spec=v2c.Message())
    assert not left
    assert encoder.encode(again["data"]["get-bulk-request"]["variable-bindings"]) == (
        request.varbinds
    )


def test_damaged_requests_are_refused_or_read() -> None:
    """Any octets are decoded or raise BerError."""
    good = request_of_pysnmp([(1, 3, 6, 1, 2, 1, 2, 2, 1, n) for n in range(1, 20)], 0, 10)
    dice = random.Random(1)
    refused = 0
    for _ in range(8000):
        octets = bytearray(good)
        for _ in range(dice.randint(1, 4)):
            octets[dice.randrange(len(octets))] = dice.randrange(256)
        octets = octets[: dice.randint(1, len(octets))] if dice.random() < 0.3 else octets
        try:
            read_version(bytes(octets))
            decode_request(open_message(bytes(octets))[1])
        except BerError:
            refused += 1
    assert 1000 < refused < 8000


def test_what_we_encode_pysnmp_reads() -> None:
    octets = encode_message(V2C, b"public", bytes.fromhex("a20b0201070201000201003000"))
    message, left = decoder.decode(octets, asn1Spec=v2c.Message())
    assert not left
    pdu = v2c.apiMessage.get_pdu(message)
    assert v2c.apiPDU.get_request_id(pdu) == 7
    assert v2c.apiPDU.get_varbinds(pdu) == []
