"""Filters datagrams with a wrong community in the kernel, at the agent's socket.

``Answering`` needs some 15 microseconds to refuse a datagram, so 76 000 a second would take a core.
A classic BPF program (Linux, Documentation/networking/filter.rst) refuses one in under a
microsecond. ``Answering`` still decodes and checks what passes. The program also lets one in
sixteen wrong datagrams pass, so that the log tells of them.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence

from probe.snmp.message import V1, V2C, V3

# include/uapi/linux/bpf_common.h, filter.h
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x40, 0x48, 0x50  # BPF_LD | BPF_IND: loads from X + k
_LOAD_BYTE_AT, _LOAD_EXTENSION = 0x30, 0x20  # BPF_LD | BPF_ABS: loads from k
_SUBTRACT, _ADD_X, _TO_X = 0x14, 0x0C, 0x07
_JUMP, _EQUAL, _GREATER, _AT_LEAST = 0x05, 0x15, 0x25, 0x35
_LOAD_ZERO, _RETURN = 0x00, 0x06
_RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
_WHOLE = 0xFFFFFFFF
_LET_THROUGH = 1 << 28  # one in sixteen of 2^32 random numbers
_SO_ATTACH_FILTER, _SO_MEMINFO, _MEMINFO_DROPS = 26, 55, 8
_UDP_HEADER = 8
_LONGEST = 200  # octets of a community, so that a jump can pass its comparisons
_MOST_INSTRUCTIONS = 4096

Instruction = tuple[int, int, int, int]


def attach_gate(source: socket.socket, communities: Sequence[str], has_users: bool) -> None:
    """Lets ``source`` receive only datagrams that name one of ``communities``.

    With ``has_users`` it receives those of version 3 too. Raises OSError if the kernel refuses the
    filter.
    """
    program = assemble([community.encode() for community in communities], has_users)
    if program is None:
        return  # no program holds such communities: Answering alone checks them
    octets = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(octets, len(octets))
    described = struct.pack("HP", len(program), ctypes.addressof(buffer))
    source.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def count_refused(source: socket.socket) -> int:
    """Returns how many datagrams the kernel kept from ``source``; wraps at 2^32.

    Those are the datagrams that the filter refused or that met a full receive buffer.
    """
    octets = source.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_MEMINFO_DROPS + 1))
    return struct.unpack("9I", octets)[_MEMINFO_DROPS] if len(octets) == 36 else 0


def assemble(communities: Sequence[bytes], has_users: bool) -> list[Instruction] | None:
    """Returns the program, or None if the communities are too long or too many for one.

    The program reads SEQUENCE { INTEGER version, OCTET STRING community, ... } with short or long
    lengths of BER (X.690 section 8.1.3).
    """
    blocks = [_compare(community) for community in communities if len(community) <= _LONGEST]
    if len(blocks) < len(communities) or sum(map(len, blocks)) > _MOST_INSTRUCTIONS - 100:
        return None
    tests: list[Instruction] = [
        *_expect(_LOAD_BYTE_AT, _UDP_HEADER, 0x30),
        (_LOAD_BYTE_AT, 0, 0, _UDP_HEADER + 1),
        *_extra_octets(),
        (_TO_X, 0, 0, 0),
        *_expect(_LOAD_BYTE, _UDP_HEADER + 2, 0x02),
        *_expect(_LOAD_BYTE, _UDP_HEADER + 3, 0x01),
        (_LOAD_BYTE, 0, 0, _UDP_HEADER + 4),
        (_EQUAL, 0, 1, V3),
        (_RETURN, 0, 0, _WHOLE) if has_users else _REFUSE,
        (_EQUAL, 2, 0, V1),
        (_EQUAL, 1, 0, V2C),
        _REFUSE,
        *_expect(_LOAD_BYTE, _UDP_HEADER + 5, 0x04),
        (_LOAD_BYTE, 0, 0, _UDP_HEADER + 6),
        *_extra_octets(),
        (_ADD_X, 0, 0, 0),
        (_TO_X, 0, 0, 0),
    ]
    program = [*tests, *(one for block in blocks for one in block)]
    refuse = len(program)
    sample: list[Instruction] = [
        (_LOAD_EXTENSION, 0, 0, _RANDOM),
        (_AT_LEAST, 1, 0, _LET_THROUGH),
        (_RETURN, 0, 0, _WHOLE),
        (_RETURN, 0, 0, 0),
    ]
    linked = [
        (_JUMP, 0, 0, refuse - at - 1) if one is _REFUSE else one for at, one in enumerate(program)
    ]
    return [*linked, *sample]


#: A placeholder for a jump to the end; ``assemble`` fills in its distance.
_REFUSE: Instruction = (_JUMP, 0, 0, _WHOLE)


def _expect(load: int, at: int, value: int) -> list[Instruction]:
    return [(load, 0, 0, at), (_EQUAL, 1, 0, value), _REFUSE]


def _extra_octets() -> list[Instruction]:
    """Returns code that turns A, the first octet of a length, into the number of more octets."""
    return [
        (_AT_LEAST, 0, 4, 0x80),
        (_SUBTRACT, 0, 0, 0x80),
        (_GREATER, 0, 1, 4),
        _REFUSE,
        (_JUMP, 0, 0, 1),
        (_LOAD_ZERO, 0, 0, 0),
    ]


def _compare(community: bytes) -> list[Instruction]:
    """Returns code that accepts this community, else continues. Register X: octets of lengths."""
    wanted: list[tuple[int, int, int]] = [(_LOAD_BYTE, _UDP_HEADER + 6, len(community) & 0xFF)]
    at = 0
    while at < len(community):
        size = next(size for size in (4, 2, 1) if len(community) - at >= size)
        load = {4: _LOAD_WORD, 2: _LOAD_HALF, 1: _LOAD_BYTE}[size]
        value = int.from_bytes(community[at : at + size], "big")
        wanted.append((load, _UDP_HEADER + 7 + at, value))
        at += size
    found: list[Instruction] = []
    for number, (load, offset, value) in enumerate(wanted):
        behind = 2 * (len(wanted) - number - 1) + 1
        found += [(load, 0, 0, offset), (_EQUAL, 0, behind, value)]
    return [*found, (_RETURN, 0, 0, _WHOLE)]
