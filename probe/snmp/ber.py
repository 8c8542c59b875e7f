"""Encodes and decodes the parts of BER (X.690) that SNMP messages use."""

from __future__ import annotations

INTEGER, OCTET_STRING, NULL, OBJECT_IDENTIFIER, SEQUENCE = 0x02, 0x04, 0x05, 0x06, 0x30
#: SNMPv2-SMI (RFC 2578).
COUNTER32, GAUGE32, TIME_TICKS, COUNTER64 = 0x41, 0x42, 0x43, 0x46

Oid = tuple[int, ...]

_MOST_ARCS = 128  # RFC 2578 section 3.5
_LARGEST_ARC = 0xFFFFFFFF


class BerError(Exception):
    """Raised for octets that are not what SNMP allows there."""


def encode(tag: int, body: bytes) -> bytes:
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + body


def encode_integer(value: int, tag: int = INTEGER) -> bytes:
    """Encodes signed and unsigned numbers; an unsigned one has a zero before a high bit."""
    size = ((value if value >= 0 else ~value).bit_length() // 8) + 1
    return bytes((tag, size)) + value.to_bytes(size, "big", signed=True)


def encode_oid_body(arcs: Oid) -> bytes:
    """Encodes at least two arcs. Callers encode the common beginning of a table's rows once."""
    return encode_arcs((arcs[0] * 40 + arcs[1], *arcs[2:]))


def encode_arcs(arcs: Oid) -> bytes:
    octets = bytearray()
    for arc in arcs:
        if arc >= 0x80:
            shift = (arc.bit_length() - 1) // 7 * 7
            while shift:
                octets.append(0x80 | arc >> shift & 0x7F)
                shift -= 7
        octets.append(arc & 0x7F)
    return bytes(octets)


def decode_oid(body: bytes) -> Oid:
    """Decodes an object identifier. Raises BerError for too many or too large arcs."""
    if not body or body[-1] & 0x80:
        raise BerError("an object identifier without an end")
    first, rest = 0, []
    arc = 0
    for octet in body:
        arc = arc << 7 | octet & 0x7F
        if arc > _LARGEST_ARC:
            raise BerError("an arc over 32 bits")
        if not octet & 0x80:
            rest.append(arc)
            arc = 0
    if len(rest) >= _MOST_ARCS:
        raise BerError(f"an object identifier of more than {_MOST_ARCS} arcs")
    first = min(rest[0] // 40, 2)
    return (first, rest[0] - 40 * first, *rest[1:])


class Reader:
    """Reads consecutive items of ``octets[at:end]``; none may reach beyond ``end``."""

    __slots__ = ("at", "end", "octets")

    def __init__(self, octets: bytes, at: int = 0, end: int | None = None) -> None:
        self.octets, self.at = octets, at
        self.end = len(octets) if end is None else end

    @property
    def is_done(self) -> bool:
        return self.at >= self.end

    def item(self) -> tuple[int, int, int]:
        """Returns the tag of the next item, and the begin and end of its body."""
        octets, at = self.octets, self.at
        if at + 2 > self.end:
            raise BerError("an item is cut off")
        tag, size = octets[at], octets[at + 1]
        at += 2
        if size & 0x80:
            count = size & 0x7F
            if not 1 <= count <= 4 or at + count > self.end:
                raise BerError("a length that SNMP does not use")
            size = int.from_bytes(octets[at : at + count], "big")
            at += count
        if at + size > self.end:
            raise BerError("an item is longer than what it is in")
        self.at = at + size
        return tag, at, at + size

    def enter(self, wanted: int) -> Reader:
        begin, end = self.expect(wanted)
        return Reader(self.octets, begin, end)

    def integer(self) -> int:
        begin, end = self.expect(INTEGER)
        if not 1 <= end - begin <= 5:
            raise BerError("an integer of no or too many octets")
        return int.from_bytes(self.octets[begin:end], "big", signed=True)

    def body(self, wanted: int) -> bytes:
        begin, end = self.expect(wanted)
        return self.octets[begin:end]

    def expect(self, wanted: int) -> tuple[int, int]:
        """Returns the begin and end of the body of the next item, which must have this tag."""
        tag, begin, end = self.item()
        if tag != wanted:
            raise BerError(f"0x{tag:02x} where 0x{wanted:02x} must be")
        return begin, end
