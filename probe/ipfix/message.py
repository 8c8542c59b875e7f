"""Puts headers and Sets around encoded records (RFC 7011 sections 3.1 and 3.3).

A message holds one Set, because some collectors decode only the first. IPFIX messages have no
padding. Consecutive messages of equal length form a ``Train``, which the kernel can segment.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from probe.ipfix.wire import SET_HEADER_OCTETS, Wire

Octets = NDArray[np.uint8]
Counts = NDArray[np.int64]

#: The most messages in a train. The kernel segments as many in one call (UDP_MAX_SEGMENTS). At 1400
#: octets each they stay below 128 KiB, from where malloc asks the kernel for zeroed pages.
#: Zeroing those would cost as much as the encoding.
_TRAIN_MESSAGES = 64


@dataclass(frozen=True, slots=True)
class Train:
    """Messages back to back, each of ``size`` octets; the last may be shorter.

    ``counts`` has the number of Data Records in each message. ``packets`` and ``flow_octets`` are
    the sums that its Flow Records report, so that a loss can be stated in these terms.
    """

    octets: memoryview
    size: int
    counts: Counts
    packets: int = 0
    flow_octets: int = 0

    @property
    def records(self) -> int:
        return sum(self.counts.tolist())  # faster than ndarray.sum() for some tens of numbers

    @property
    def flow_records(self) -> int:
        """Returns the number of Flow Records: all records if there are packets, else none.

        Records of options have no packets, and a Flow Record always has some.
        """
        return self.records if self.packets else 0

    def __len__(self) -> int:
        return -(-len(self.octets) // self.size)

    def __iter__(self) -> Iterator[memoryview]:
        for start in range(0, len(self.octets), self.size):
            yield self.octets[start : start + self.size]


@dataclass(frozen=True, slots=True)
class Traffic:
    """The packetDeltaCount and octetDeltaCount of each Flow Record."""

    packets: NDArray[np.uint64]
    octets: NDArray[np.uint64]

    def sums(self, start: int, end: int) -> tuple[int, int]:
        return int(self.packets[start:end].sum()), int(self.octets[start:end].sum())


@dataclass(frozen=True, slots=True)
class PackedRecords:
    """Records of equal length, as an array of octets of shape (records, length)."""

    octets: Octets
    traffic: Traffic | None = None

    def __len__(self) -> int:
        return len(self.octets)


@dataclass(frozen=True, slots=True)
class JoinedRecords:
    """Records of any length; each is the concatenation of its row of ``columns``."""

    columns: Sequence[Sequence[bytes]]
    lengths: Counts
    traffic: Traffic | None = None

    def __len__(self) -> int:
        return len(self.lengths)


Records = PackedRecords | JoinedRecords


@dataclass(frozen=True, slots=True)
class Framing:
    """What the headers of consecutive messages need; ``sequence`` is that of the first."""

    wire: Wire
    set_id: int
    export_time: int
    uptime_ms: int
    sequence: int
    odid: int
    max_message: int

    @property
    def room(self) -> int:
        return self.wire.room(self.max_message)

    def headers(self, lengths: Counts, counts: Counts) -> NDArray[np.void]:
        """Returns a header for each message of these lengths and record counts."""
        headers = np.empty(len(lengths), self.wire.header)
        counts_messages = self.wire.counts_messages
        before = np.arange(len(lengths)) if counts_messages else np.cumsum(counts) - counts
        values = {
            "version": self.wire.version,
            "length": lengths,
            "count": counts,
            "uptime_ms": self.uptime_ms & 0xFFFFFFFF,
            "export_time": self.export_time & 0xFFFFFFFF,
            "sequence": (before + self.sequence) & 0xFFFFFFFF,
            "odid": self.odid,
            "set_id": self.set_id,
            "set_length": lengths - (self.wire.overhead - SET_HEADER_OCTETS),
        }
        for name in headers.dtype.names or ():
            headers[name] = values[name]
        return headers


def frame_records(framing: Framing, records: Records) -> list[Train]:
    """Returns messages that carry ``records`` in their order, none longer than ``max_message``.

    Raises ValueError if a record does not fit into a message of its own: the caller has a bug.
    """
    if not len(records):
        return []
    if isinstance(records, PackedRecords):
        return [_frame_packed(framing, records)]
    return _frame_joined(framing, records)


def frame_template(framing: Framing, body: bytes) -> Train:
    """Returns a message with one Template Record."""
    body += bytes(framing.wire.padding(len(body)))
    lengths = np.array([framing.wire.overhead + len(body)])
    header = framing.headers(lengths, np.ones(1, np.int64))
    octets = header.tobytes() + body
    return Train(memoryview(octets), len(octets), np.zeros(1, np.int64))


def renumber(trains: Sequence[Train], sequence: int, wire: Wire) -> tuple[list[Train], int]:
    """Returns the messages with sequence numbers from ``sequence`` on, and the next number."""
    renumbered = []
    for train in trains:
        octets = bytearray(train.octets)
        for position, count in enumerate(train.counts.tolist()):
            offset = position * train.size + wire.sequence_offset
            struct.pack_into("!I", octets, offset, sequence)
            sequence = (sequence + wire.step(1, count)) & 0xFFFFFFFF
        view = memoryview(octets)
        renumbered.append(Train(view, train.size, train.counts, train.packets, train.flow_octets))
    return renumbered, sequence


def _frame_packed(framing: Framing, records: PackedRecords) -> Train:
    octets, overhead = records.octets, framing.wire.overhead
    count, length = octets.shape
    per_message = framing.room // length
    if not per_message:
        raise ValueError(f"a record of {length} octets in messages of {framing.max_message}")
    full, rest = divmod(count, per_message)
    counts = np.full(full + bool(rest), per_message, np.int64)
    if rest:
        counts[-1] = rest
    lengths = overhead + counts * length
    lengths += -lengths % framing.wire.alignment
    heads = framing.headers(lengths, counts).view(np.uint8).reshape(-1, overhead)
    # NetFlow v9 requires padding of zeros; without padding, zeroing would be wasted.
    make = np.zeros if framing.wire.alignment > 1 else np.empty
    out: Octets = make(int(lengths.sum()), np.uint8)
    size, end = int(lengths[0]), overhead + per_message * length
    if full:
        body = out[: full * size].reshape(full, size)
        body[:, :overhead] = heads[:full]
        body[:, overhead:end] = octets[: full * per_message].reshape(full, per_message * length)
    if rest:
        last = out[full * size :]
        last[:overhead] = heads[-1]
        last[overhead : overhead + rest * length] = octets[full * per_message :].reshape(-1)
    return _train(out.data, size, counts, records.traffic, 0, count)


def _frame_joined(framing: Framing, records: JoinedRecords) -> list[Train]:
    assert framing.wire.alignment == 1, "only IPFIX has variable length, and it needs no padding"
    ends = np.cumsum(records.lengths)
    starts = _message_starts(records.lengths, ends, framing.room)
    bounds = np.append(starts, len(records))
    offsets = np.concatenate(([0], ends))[bounds]
    lengths, counts = np.diff(offsets) + framing.wire.overhead, np.diff(bounds)
    heads = _headed(framing.headers(lengths, counts), starts, len(records))
    columns = [heads, *records.columns]
    pieces: list[bytes] = [b""] * (len(records) * len(columns))
    for position, column in enumerate(columns):
        pieces[position :: len(columns)] = column
    width = len(columns)
    trains = []
    for first, last in _runs(lengths):
        start, end = int(bounds[first]), int(bounds[last])
        octets = memoryview(b"".join(pieces[start * width : end * width]))
        size = int(lengths[first])
        trains.append(_train(octets, size, counts[first:last], records.traffic, start, end))
    return trains


def _train(
    octets: memoryview, size: int, counts: Counts, traffic: Traffic | None, start: int, end: int
) -> Train:
    return Train(octets, size, counts, *(traffic.sums(start, end) if traffic else (0, 0)))


def _message_starts(lengths: Counts, ends: Counts, room: int) -> Counts:
    """Returns the index of the first record of each message; messages are filled greedily."""
    if int(lengths.max()) > room:
        raise ValueError(f"a record of {int(lengths.max())} octets in messages with {room}")
    if lengths[0] == lengths[-1] and (lengths == lengths[0]).all():
        return np.arange(0, len(lengths), room // int(lengths[0]))
    following = np.searchsorted(ends, ends - lengths + room, side="right").tolist()
    starts, at = [], 0
    while at < len(following):
        starts.append(at)
        at = following[at]
    return np.array(starts, np.int64)


def _headed(headers: NDArray[np.void], starts: Counts, count: int) -> list[bytes]:
    """Returns one entry per record: a header where a message starts, else no octets."""
    heads = [b""] * count
    kind = f"V{headers.dtype.itemsize}"
    for start, header in zip(starts.tolist(), headers.view(kind).tolist(), strict=True):
        heads[start] = header
    return heads


def _runs(lengths: Counts) -> Iterator[tuple[int, int]]:
    """Yields (first, behind the last) of consecutive messages of equal length."""
    changes = (np.flatnonzero(lengths[1:] != lengths[:-1]) + 1).tolist()
    for first, end in pairwise([0, *changes, len(lengths)]):
        for start in range(first, end, _TRAIN_MESSAGES):
            yield start, min(start + _TRAIN_MESSAGES, end)
