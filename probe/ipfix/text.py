"""Strings on the wire: valid UTF-8, never cut inside a character (RFC 7011 section 6.1.6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: C0 and C1 control characters and DEL: a process may call itself anything.
_CONTROL = dict.fromkeys([*range(32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}")

#: What ``encode_plain`` writes instead.
_ESCAPED = str.maketrans({'"': "'", "\\": "_"})


def encode_text(text: str) -> bytes:
    """UTF-8 of ``text``; control characters and lone surrogates are replaced."""
    if text.isascii() and text.isprintable():
        return text.encode("ascii")
    return text.translate(_CONTROL).encode("utf-8", "replace")


def encode_plain(text: str) -> bytes:
    """As ``encode_text``, without the characters that a string in JSON has to escape."""
    return encode_text(text.translate(_ESCAPED))


@dataclass(frozen=True, slots=True)
class Strings:
    """How a destination's strings are written; ``padding`` fills fields of fixed length."""

    encode: Callable[[str], bytes] = encode_text
    padding: bytes = b"\0"

    def fill(self, text: str, length: int) -> bytes:
        """``text`` for a field of fixed length."""
        return cut_text(self.encode(text), length).ljust(length, self.padding)


#: For collectors that write JSON without escapes, where a NUL is as bad as a quotation mark.
PLAIN = Strings(encode_plain, b" ")


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
