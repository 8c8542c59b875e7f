"""Makes messages of SNMP versions 1 and 2c, and reads them strictly (RFC 3416, RFC 3417)."""

from __future__ import annotations

from dataclasses import dataclass

Oid = tuple[int, ...]
Varbind = tuple[Oid, int, bytes]

INTEGER, OCTETS, NULL, OID, SEQUENCE = 0x02, 0x04, 0x05, 0x06, 0x30
COUNTER32, GAUGE32, TIME_TICKS, COUNTER64 = 0x41, 0x42, 0x43, 0x46
NO_SUCH_OBJECT, NO_SUCH_INSTANCE, END_OF_VIEW = 0x80, 0x81, 0x82
GET, NEXT, RESPONSE, SET, BULK = 0xA0, 0xA1, 0xA2, 0xA3, 0xA5
V1, V2C = 0, 1


class Malformed(Exception):
    """Raised for octets that are no message."""


@dataclass
class Message:
    """A message; ``second`` and ``third`` are error status and index, or a GETBULK's counts."""

    kind: int
    varbinds: list[Varbind]
    second: int = 0
    third: int = 0
    version: int = V2C
    community: bytes = b"public"
    request: int = 1

    def encode(self) -> bytes:
        bound = (tlv(SEQUENCE, oid(name) + tlv(tag, value)) for name, tag, value in self.varbinds)
        numbers = b"".join(map(integer, (self.request, self.second, self.third)))
        pdu = tlv(self.kind, numbers + tlv(SEQUENCE, b"".join(bound)))
        return tlv(SEQUENCE, integer(self.version) + tlv(OCTETS, self.community) + pdu)


def decode(octets: bytes) -> Message:
    """Decodes a message. Raises Malformed if octets are left over or missing."""
    (whole,) = _parts(octets, SEQUENCE)
    version, community, pdu = _children(whole[1])
    request, second, third, bound = _children(pdu[1])
    varbinds = []
    for _, pair in _children(bound[1]):
        name, value = _children(pair)
        varbinds.append((_oid_of(name[1]), *value))
    return Message(
        pdu[0], varbinds, number(second[1]), number(third[1]), number(version[1]), community[1],
        number(request[1]),
    )  # fmt: skip


def tlv(tag: int, value: bytes) -> bytes:
    length = len(value)
    if length < 128:
        return bytes((tag, length)) + value
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + value


def integer(value: int, tag: int = INTEGER) -> bytes:
    return tlv(tag, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def number(octets: bytes) -> int:
    return int.from_bytes(octets, "big", signed=True)


def unsigned(octets: bytes) -> int:
    """Decodes an unsigned number, with or without a leading zero, as agents do both."""
    return int.from_bytes(octets, "big")


def oid(name: Oid) -> bytes:
    octets = bytearray((name[0] * 40 + name[1],))
    for arc in name[2:]:
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        octets += bytes(reversed(groups))
    return tlv(OID, bytes(octets))


def _oid_of(octets: bytes) -> Oid:
    first = min(octets[0] // 40, 2)
    arcs, arc = [first, octets[0] - 40 * first], 0
    for octet in octets[1:]:
        arc = arc << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(arc)
            arc = 0
    return tuple(arcs)


def _children(octets: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(octets):
        tag, length, start = octets[at], *_length(octets, at + 1)
        if start + length > len(octets):
            raise Malformed(f"{length} octets announced, {len(octets) - start} came")
        found.append((tag, octets[start : start + length]))
        at = start + length
    return found


def _parts(octets: bytes, tag: int) -> list[tuple[int, bytes]]:
    found = _children(octets)
    if len(found) != 1 or found[0][0] != tag:
        raise Malformed("one SEQUENCE is a message")
    return found


def _length(octets: bytes, at: int) -> tuple[int, int]:
    """Returns the length, and the offset where the value begins."""
    if at >= len(octets):
        raise Malformed("no length")
    first = octets[at]
    if first < 128:
        return first, at + 1
    end = at + 1 + (first & 0x7F)
    return int.from_bytes(octets[at + 1 : end], "big"), end
