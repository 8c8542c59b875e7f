"""Makes messages of IPFIX and NetFlow v9 by hand, for tests of readers."""

from __future__ import annotations

import struct

Set = tuple[int, bytes]


def message(
    *sets: Set, sequence: int = 0, odid: int = 1, version: int = 10, time_s: int = 0
) -> bytes:
    """Returns a message of IPFIX (RFC 7011 section 3.1)."""
    body = _sets(sets)
    return struct.pack("!HHIII", version, len(body) + 16, time_s, sequence, odid) + body


def packet(
    *sets: Set,
    count: int = 0,
    uptime_ms: int = 0,
    time_s: int = 0,
    sequence: int = 0,
    source: int = 1,
) -> bytes:
    """Returns a packet of NetFlow v9 (RFC 3954 section 5.1)."""
    return struct.pack("!HHIIII", 9, count, uptime_ms, time_s, sequence, source) + _sets(sets)


def _sets(sets: tuple[Set, ...]) -> bytes:
    return b"".join(struct.pack("!HH", number, len(body) + 4) + body for number, body in sets)


def template(number: int, *fields: tuple[int, ...]) -> bytes:
    """Returns a Template Record of fields (id, length) or (id, length, enterprise)."""
    return struct.pack("!HH", number, len(fields)) + _fields(fields)


def options_template(number: int, scopes: int, *fields: tuple[int, ...]) -> bytes:
    """Returns an IPFIX Options Template Record; the first ``scopes`` fields are the scope."""
    return struct.pack("!HHH", number, len(fields), scopes) + _fields(fields)


def options_template9(number: int, scopes: int, *fields: tuple[int, int]) -> bytes:
    """Returns one of NetFlow v9 (RFC 3954 section 6.1), without padding."""
    rest = len(fields) - scopes
    return struct.pack("!HHH", number, 4 * scopes, 4 * rest) + _fields(fields)


def _fields(fields: tuple[tuple[int, ...], ...]) -> bytes:
    return b"".join(
        struct.pack("!HHI", item[0] | 0x8000, item[1], item[2])
        if len(item) == 3
        else struct.pack("!HH", *item)
        for item in fields
    )
