"""IPFIX Messages cut out of a stream of octets: TCP (RFC 7011 section 10.4), files (RFC 5655)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from probe.errors import DecodeError
from probe.ipfix.decode_ipfix import HEADER, VERSION


class MessageStream:
    """Holds at most one message that is not complete, that is 65 535 octets.

    ``offset`` is that of the first octet in the stream that has not been given out.
    """

    def __init__(self) -> None:
        self.offset = 0
        self._pending = b""

    @property
    def unread(self) -> int:
        """Octets of a message whose end has not come."""
        return len(self._pending)

    def feed(self, octets: bytes) -> Iterator[tuple[int, bytes]]:
        """(offset, octets) of each message that is now complete.

        DecodeError: what follows is no IPFIX Message, and where the next one begins is unknown.
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
    """Of the message at ``at``; 0 when more octets must come first."""
    if len(octets) - at < 4:
        return 0
    version, length = struct.unpack_from("!HH", octets, at)
    if version != VERSION or length < HEADER.size:
        raise DecodeError(f"version {version}, length {length}: no IPFIX Message")
    return length if length <= len(octets) - at else 0
