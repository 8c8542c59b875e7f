"""Cuts IPFIX Messages out of octets: of TCP (RFC 7011 section 10.4) or of files (RFC 5655)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from probe.errors import DecodeError
from probe.ipfix.decode_ipfix import HEADER, VERSION


class MessageStream:
    """Cuts octets into messages, and holds at most one incomplete message (65 535 octets).

    ``offset`` is the position of the first octet that was not yet returned.
    """

    def __init__(self) -> None:
        self.offset = 0
        self._pending = b""

    @property
    def unread(self) -> int:
        """Returns the number of octets of the incomplete message."""
        return len(self._pending)

    def feed(self, octets: bytes) -> Iterator[tuple[int, bytes]]:
        """Yields (offset, octets) of each message that is now complete.

        Raises DecodeError if no IPFIX Message follows, so that the start of the next is unknown.
        """
        self._pending += octets
        at = 0
        try:
            while length := _length(self._pending, at):
                yield self.offset, self._pending[at : at + length]
                at += length
                self.offset += length
        finally:
            self._pending = self._pending[at:]


def _length(octets: bytes, at: int) -> int:
    """Returns the length of the message at ``at``, 0 if more octets must come first."""
    if len(octets) - at < 4:
        return 0
    version, length = struct.unpack_from("!HH", octets, at)
    if version != VERSION or length < HEADER.size:
        raise DecodeError(f"version {version}, length {length}: no IPFIX Message")
    return length if length <= len(octets) - at else 0
