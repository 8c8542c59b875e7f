"""Decodes and encodes messages of versions 1 and 2c (RFC 1157, RFC 1901) and PDUs (RFC 3416)."""

from __future__ import annotations

from dataclasses import dataclass

from probe.snmp.ber import (
    OBJECT_IDENTIFIER,
    OCTET_STRING,
    SEQUENCE,
    BerError,
    Oid,
    Reader,
    decode_oid,
    encode,
    encode_integer,
)

V1, V2C, V3 = 0, 1, 3
GET, GET_NEXT, RESPONSE, SET, GET_BULK = 0xA0, 0xA1, 0xA2, 0xA3, 0xA5
_USM, _MOST_NAME_OCTETS = 3, 32  # RFC 3411, RFC 3414
_REQUESTS = (GET, GET_NEXT, SET, GET_BULK)


@dataclass(frozen=True, slots=True)
class Request:
    """A request.

    ``first`` and ``second`` are non-repeaters and max-repetitions of a GetBulk. ``varbinds`` holds
    the octets of the variable bindings, for answers that repeat them.
    """

    kind: int
    request_id: int
    first: int
    second: int
    names: list[Oid]
    varbinds: bytes


def read_version(octets: bytes) -> int:
    """Returns the version. Raises BerError if the octets are no SNMP message."""
    return Reader(octets).enter(SEQUENCE).integer()


def open_message(octets: bytes) -> tuple[bytes, Reader]:
    """Returns the community of version 1 or 2c and a reader of the PDU, which stays undecoded."""
    outer = Reader(octets)
    message = outer.enter(SEQUENCE)
    if not outer.is_done:
        raise BerError("octets behind the message")
    message.integer()
    return message.body(OCTET_STRING), message


def check_version3(octets: bytes) -> None:
    """Checks the fields around the PDU of version 3, which may be encrypted.

    See RFC 3412 section 6 and RFC 3414 section 2.4. Raises BerError.
    """
    outer = Reader(octets)
    message = outer.enter(SEQUENCE)
    message.integer()
    header = message.enter(SEQUENCE)
    header.integer(), header.integer()
    if len(header.body(OCTET_STRING)) != 1:
        raise BerError("flags of other than one octet")
    if header.integer() != _USM:
        raise BerError("a security model that is not USM")
    begin, end = message.expect(OCTET_STRING)
    around = Reader(octets, begin, end)
    security = around.enter(SEQUENCE)
    security.item(), security.integer(), security.integer()
    name = security.body(OCTET_STRING)
    security.item(), security.item()
    if len(name) > _MOST_NAME_OCTETS:
        raise BerError("a name of too many octets")
    message.item()
    if not all(part.is_done for part in (outer, message, header, around, security)):
        raise BerError("octets behind a part of the message")


def decode_request(reader: Reader) -> Request:
    """Returns the request in a PDU. Raises BerError."""
    kind, begin, end = reader.item()
    if kind not in _REQUESTS or not reader.is_done:
        raise BerError("no request")
    pdu = Reader(reader.octets, begin, end)
    numbers = pdu.integer(), pdu.integer(), pdu.integer()
    at = pdu.at
    items = pdu.enter(SEQUENCE)
    if not pdu.is_done:
        raise BerError("octets behind the variable bindings")
    names: list[Oid] = []
    while not items.is_done:
        varbind = items.enter(SEQUENCE)
        names.append(decode_oid(varbind.body(OBJECT_IDENTIFIER)))
        varbind.item()
        if not varbind.is_done:
            raise BerError("octets behind a value")
    return Request(kind, *numbers, names, reader.octets[at:end])


def encode_response(request_id: int, status: int, index: int, varbinds: bytes) -> bytes:
    """Returns a response; ``varbinds`` have their tag and length."""
    numbers = encode_integer(request_id) + encode_integer(status) + encode_integer(index)
    return encode(RESPONSE, numbers + varbinds)


def encode_message(version: int, community: bytes, pdu: bytes) -> bytes:
    return encode(SEQUENCE, encode_integer(version) + encode(OCTET_STRING, community) + pdu)
