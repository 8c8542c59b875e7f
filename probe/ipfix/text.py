"""Strings on the wire: valid UTF-8, never cut inside a character (RFC 7011 section 6.1.6)."""

from __future__ import annotations

#: C0 and C1 control characters and DEL: a process may call itself anything.
_CONTROL = dict.fromkeys([*range(32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}")


def encode_text(text: str) -> bytes:
    """UTF-8 of ``text``; control characters and lone surrogates are replaced."""
    if text.isascii() and text.isprintable():
        return text.encode("ascii")
    return text.translate(_CONTROL).encode("utf-8", "replace")


def cut_text(octets: bytes, limit: int) -> bytes:
    """The longest prefix of valid UTF-8 that has at most ``limit`` octets."""
    if len(octets) <= limit:
        return octets
    while limit > 0 and octets[limit] & 0xC0 == 0x80:
        limit -= 1
    return octets[:limit]


def encode_variable(octets: bytes) -> bytes:
    """A variable-length field: one octet of length, or 255 and two (RFC 7011 section 7)."""
    length = len(octets)
    if length < 255:
        return bytes((length,)) + octets
    return b"\xff" + length.to_bytes(2, "big") + octets
