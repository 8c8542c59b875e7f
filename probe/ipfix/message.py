"""Messages: headers and Sets around encoded records (RFC 7011 sections 3.1 and 3.3).

A message holds one Set (some collectors decode only the first) and no padding. Messages of equal
length that follow each other travel as one ``Train``, which the kernel can cut up by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Octets = NDArray[np.uint8]
Counts = NDArray[np.int64]

#: Message header and the header of the one Set behind it.
HEADER = np.dtype(
    [
        ("version", ">u2"),
        ("length", ">u2"),
        ("export_time", ">u4"),
        ("sequence", ">u4"),
        ("odid", ">u4"),
        ("set_id", ">u2"),
        ("set_length", ">u2"),
    ]
)
OVERHEAD = HEADER.itemsize
_SET_HEADER = 4
#: What the kernel cuts up in one call (UDP_MAX_SEGMENTS), and at 1400 octets below the 128 KiB from
#: which malloc asks the kernel for zeroed pages: those would cost as much as all the encoding.
_TRAIN_MESSAGES = 64


@dataclass(frozen=True, slots=True)
class Wire:
    """What sets one export protocol apart from its relatives."""

    version: int
    template_set: int
    options_template_set: int


IPFIX = Wire(version=10, template_set=2, options_template_set=3)


@dataclass(frozen=True, slots=True)
class Train:
    """Messages back to back: each of ``size`` octets, the last one possibly shorter."""

    octets: memoryview
    size: int
    records: int

    def __len__(self) -> int:
        return -(-len(self.octets) // self.size)

    def __iter__(self) -> Iterator[memoryview]:
        for start in range(0, len(self.octets), self.size):
            yield self.octets[start : start + self.size]


@dataclass(frozen=True, slots=True)
class PackedRecords:
    """Records of one length: octets of shape (records, length)."""

    octets: Octets

    def __len__(self) -> int:
        return len(self.octets)


@dataclass(frozen=True, slots=True)
class JoinedRecords:
    """Records of any length, each the concatenation of its row of ``columns``."""

    columns: Sequence[Sequence[bytes]]
    lengths: Counts

    def __len__(self) -> int:
        return len(self.lengths)


Records = PackedRecords | JoinedRecords


@dataclass(frozen=True, slots=True)
class Framing:
    """All that the headers of a run of messages need; ``sequence`` is that of the first."""

    wire: Wire
    set_id: int
    export_time: int
    sequence: int
    odid: int
    max_message: int

    def headers(self, lengths: Counts, records_before: Counts) -> NDArray[np.void]:
        """One HEADER per message, from the messages' lengths and the Data Records before each."""
        headers = np.empty(len(lengths), HEADER)
        headers["version"] = self.wire.version
        headers["length"] = lengths
        headers["export_time"] = self.export_time & 0xFFFFFFFF
        headers["sequence"] = (records_before + self.sequence) & 0xFFFFFFFF
        headers["odid"] = self.odid
        headers["set_id"] = self.set_id
        headers["set_length"] = lengths - (OVERHEAD - _SET_HEADER)
        return headers


def frame_records(framing: Framing, records: Records) -> list[Train]:
    """Messages that carry ``records`` in their order, none longer than ``max_message``.

    Every record must fit into a message of its own (ValueError: a bug of the caller).
    """
    if not len(records):
        return []
    if isinstance(records, PackedRecords):
        return [_frame_packed(framing, records.octets)]
    return _frame_joined(framing, records)


def frame_whole(framing: Framing, bodies: Sequence[bytes]) -> list[Train]:
    """Messages around template records: no Data Records, so the sequence stands still."""
    trains = []
    for body in _filled(bodies, framing.max_message - OVERHEAD):
        header = framing.headers(np.array([OVERHEAD + len(body)]), np.zeros(1, np.int64))
        octets = header.tobytes() + body
        trains.append(Train(memoryview(octets), len(octets), 0))
    return trains


def _filled(bodies: Sequence[bytes], room: int) -> Iterator[bytes]:
    pending = b""
    for body in bodies:
        if pending and len(pending) + len(body) > room:
            yield pending
            pending = b""
        pending += body
    if pending:
        yield pending


def _frame_packed(framing: Framing, octets: Octets) -> Train:
    count, length = octets.shape
    per_message = (framing.max_message - OVERHEAD) // length
    if not per_message:
        raise ValueError(f"a record of {length} octets in messages of {framing.max_message}")
    full, rest = divmod(count, per_message)
    size = OVERHEAD + per_message * length
    lengths = np.full(full + bool(rest), size, np.int64)
    if rest:
        lengths[-1] = OVERHEAD + rest * length
    headers = framing.headers(lengths, np.arange(len(lengths)) * per_message)
    heads = headers.view(np.uint8).reshape(-1, OVERHEAD)
    out = np.empty(int(lengths.sum()), np.uint8)
    body = out[: full * size].reshape(full, size)
    body[:, :OVERHEAD] = heads[:full]
    body[:, OVERHEAD:] = octets[: full * per_message].reshape(full, per_message * length)
    if rest:
        out[full * size : full * size + OVERHEAD] = heads[-1]
        out[full * size + OVERHEAD :] = octets[full * per_message :].reshape(-1)
    return Train(out.data, size if full else len(out), count)


def _frame_joined(framing: Framing, records: JoinedRecords) -> list[Train]:
    ends = np.cumsum(records.lengths)
    starts = _message_starts(records.lengths, ends, framing.max_message - OVERHEAD)
    bounds = np.append(starts, len(records))
    offsets = np.concatenate(([0], ends))[bounds]
    lengths = np.diff(offsets) + OVERHEAD
    heads = _headed(framing.headers(lengths, starts), starts, len(records))
    columns = [heads, *records.columns]
    pieces: list[bytes] = [b""] * (len(records) * len(columns))
    for position, column in enumerate(columns):
        pieces[position :: len(columns)] = column
    return [
        Train(
            memoryview(b"".join(pieces[start * len(columns) : end * len(columns)])),
            size,
            end - start,
        )
        for start, end, size in _runs(lengths, bounds)
    ]


def _message_starts(lengths: Counts, ends: Counts, room: int) -> Counts:
    """Index of the first record of each message, filled greedily."""
    if int(lengths.max()) > room:
        raise ValueError(f"a record of {int(lengths.max())} octets in messages with {room}")
    following = np.searchsorted(ends, ends - lengths + room, side="right").tolist()
    starts, at = [], 0
    while at < len(following):
        starts.append(at)
        at = following[at]
    return np.array(starts, np.int64)


def _headed(headers: NDArray[np.void], starts: Counts, count: int) -> list[bytes]:
    """One entry per record: the header where a message starts, nothing elsewhere."""
    heads = [b""] * count
    for start, header in zip(starts.tolist(), headers.view(f"V{OVERHEAD}").tolist(), strict=True):
        heads[start] = header
    return heads


def _runs(lengths: Counts, bounds: Counts) -> Iterator[tuple[int, int, int]]:
    """(first record, record behind the last, message length) of messages of equal length."""
    changes = (np.flatnonzero(lengths[1:] != lengths[:-1]) + 1).tolist()
    for first, end in pairwise([0, *changes, len(lengths)]):
        size = int(lengths[first])
        for start in range(first, end, _TRAIN_MESSAGES):
            yield int(bounds[start]), int(bounds[min(start + _TRAIN_MESSAGES, end)]), size
