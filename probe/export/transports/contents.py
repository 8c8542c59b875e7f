"""Reads what a file of IPFIX messages holds, so that more can be appended."""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass, field

from probe.errors import DecodeError
from probe.ipfix.decode import CollectingProcess
from probe.ipfix.elements import ElementTable

#: RFC 7011 sections 3.1 and 3.3.2: version, length, time, sequence, domain; id of the first Set.
_HEADER = struct.Struct("!HHIIIH")
_VERSION = 10
_LEAST_LENGTH = 16
_TEMPLATE_SETS = (2, 3)


@dataclass(slots=True)
class Contents:
    """The messages in a file. ``end``: length in octets of all that are complete.

    ``templates`` and ``last`` hold (offset, length) of messages.
    """

    end: int = 0
    templates: list[tuple[int, int]] = field(default_factory=list)
    #: The last message of each Observation Domain.
    last: dict[int, tuple[int, int]] = field(default_factory=dict)


def read_contents(file: int) -> Contents:
    """Finds the messages by their headers. Raises OSError if the file holds something else."""
    found, size = Contents(), os.fstat(file).st_size
    while found.end < size:
        octets = os.pread(file, _HEADER.size, found.end).ljust(_HEADER.size, b"\0")
        version, length, _, _, domain, set_id = _HEADER.unpack(octets)
        if size - found.end >= 4 and (version != _VERSION or length < _LEAST_LENGTH):
            raise OSError(errno.EINVAL, f"not an IPFIX file: no message at octet {found.end}")
        if size - found.end < max(4, length):
            break
        if set_id in _TEMPLATE_SETS:
            found.templates.append((found.end, length))
        found.last[domain] = found.end, length
        found.end += length
    if size and not found.end:
        raise OSError(errno.EINVAL, "not an IPFIX file: no whole message in it")
    return found


def next_sequence(file: int, found: Contents, domain: int) -> int:
    """Returns the sequence number with which to continue (RFC 7011 section 3.1).

    Returns 0 if ``domain`` is new. Returns 0 too if the last message cannot be decoded with the
    Templates from messages that begin with them; every file of ours can.
    """
    if domain not in found.last:
        return 0
    process = CollectingProcess(ElementTable([]))
    try:
        for place in found.templates:
            process.decode_message(_message(file, place), file, is_reliable=True)
        before = _records(process)
        last = _message(file, found.last[domain])
        process.decode_message(last, file, is_reliable=True)
    except DecodeError:
        return 0
    if process.statistics.unknown_sets:
        return 0
    sequence: int = _HEADER.unpack_from(last.ljust(_HEADER.size))[3]
    return (sequence + _records(process) - before) & 0xFFFFFFFF


def _message(file: int, place: tuple[int, int]) -> bytes:
    offset, length = place
    return os.pread(file, length, offset)


def _records(process: CollectingProcess) -> int:
    return process.statistics.records + process.statistics.option_records
