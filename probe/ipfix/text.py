"""Encodes strings: valid UTF-8, never cut inside a character (RFC 7011 section 6.1.6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: C0 and C1 control characters and DEL, because a process may choose any name.
_CONTROL = dict.fromkeys([*range(32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}")

#: The replacements that ``encode_plain`` writes.
_ESCAPED = str.maketrans({'"': "'", "\\": "_"})


def encode_text(text: str) -> bytes:
    """Returns the UTF-8 of ``text``, with control characters and lone surrogates replaced."""
    if text.isascii() and text.isprintable():
        return text.encode("ascii")
    return text.translate(_CONTROL).encode("utf-8", "replace")


def encode_plain(text: str) -> bytes:
    """Encodes as ``encode_text``, and replaces the characters that JSON has to escape."""
    return encode_text(text.translate(_ESCAPED))


@dataclass(frozen=True, slots=True)
class Strings:
    """Says how strings are written for a destination; ``padding`` fills fixed-length fields."""

    encode: Callable[[str], bytes] = encode_text
    padding: bytes = b"\0"

    def fill(self, text: str, length: int) -> bytes:
        """Returns ``text`` for a field of fixed length."""
        return cut_text(self.encode(text), length).ljust(length, self.padding)


#: For collectors that write JSON without escapes. There a NUL breaks as much as a quotation mark.
PLAIN = Strings(encode_plain, b" ")


def cut_text(octets: bytes, limit: int) -> bytes:
    """Returns the longest prefix that is valid UTF-8 and has at most ``limit`` octets."""
    if len(octets) <= limit:
        return octets
    while limit > 0 and octets[limit] & 0xC0 == 0x80:
        limit -= 1
    return octets[:limit]


def encode_variable(octets: bytes) -> bytes:
    """Returns a variable-length field: one octet of length, or 255 and two (RFC 7011 section 7)."""
    length = len(octets)
    if length < 255:
        return bytes((length,)) + octets
    return b"\xff" + length.to_bytes(2, "big") + octets
