"""Encodes items of nDPI's TLV serializer.

An item is a type octet (key type << 4 | value type), a key and a value.

Integers are big-endian, float32 is little-endian, a string is its length (u16) and its octets.
"""

from __future__ import annotations

import struct

U8, U16, U32, U64, FLOAT, TEXT = 2, 3, 4, 5, 10, 11
#: The octets at the start of every payload, and at the end of each record.
PREFIX, END_OF_RECORD = b"\x01\x01", b"\x01"
#: Maps the type of a value of fixed length to its numpy kind.
KINDS = {U8: "u1", U16: ">u2", U32: ">u4", U64: ">u8", FLOAT: "<f4"}

Key = int | str


def encode_head(key: Key, kind: int) -> bytes:
    """Returns the octets of an item before its value. A numeric key takes the fewest octets."""
    if isinstance(key, str):
        octets = key.encode("ascii")
        return struct.pack(">BH", TEXT << 4 | kind, len(octets)) + octets
    if key < 1 << 8:
        return struct.pack(">BB", U8 << 4 | kind, key)
    if key < 1 << 16:
        return struct.pack(">BH", U16 << 4 | kind, key)
    return struct.pack(">BI", U32 << 4 | kind, key)


def encode_text(key: Key, octets: bytes) -> bytes:
    return encode_head(key, TEXT) + struct.pack(">H", len(octets)) + octets


def encode_u32(key: Key, value: int) -> bytes:
    return encode_head(key, U32) + struct.pack(">I", value)
