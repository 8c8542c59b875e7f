"""Re-frames queued messages for a path that has become narrower.

The records are taken out of the messages and framed again. This is rare, so it may be slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from probe.ipfix.message import (
    Framing,
    JoinedRecords,
    PackedRecords,
    Records,
    Traffic,
    Train,
    frame_records,
)
from probe.ipfix.template import Template
from probe.ipfix.wire import Wire


def set_id_of(train: Train, wire: Wire) -> int:
    """Returns the id of the Set in each message of the train."""
    return int(_header(train, wire)["set_id"])


def sequence_of(train: Train, wire: Wire) -> int:
    """Returns the sequence number of the first message of the train."""
    return int(_header(train, wire)["sequence"])


def recut_train(
    train: Train, wire: Wire, template: Template, sequence: int, max_message: int
) -> list[Train]:
    """Returns the records of ``template`` in messages of at most ``max_message`` octets.

    A record that is longer itself, because its strings fitted the larger message, makes a longer
    message.
    """
    records = _records(train, wire, template)
    header = _header(train, wire)
    names = header.dtype.names or ()
    framing = Framing(
        wire,
        int(header["set_id"]),
        int(header["export_time"]),
        int(header["uptime_ms"]) if "uptime_ms" in names else 0,
        sequence,
        int(header["odid"]),
        max(max_message, wire.message_for(_longest(records))),
    )
    return frame_records(framing, records)


def _header(train: Train, wire: Wire) -> np.void:
    header: np.void = np.frombuffer(train.octets, wire.header, 1)[0]
    return header


def _longest(records: Records) -> int:
    if isinstance(records, PackedRecords):
        return int(records.octets.shape[1])
    return int(records.lengths.max(initial=0))


def _records(train: Train, wire: Wire, template: Template) -> Records:
    traffic = _shares(train) if train.packets else None
    bodies = [bytes(message[wire.overhead :]) for message in train]
    counted = list(zip(bodies, train.counts.tolist(), strict=True))
    if not template.has_variable_length:
        length = template.fixed_length
        octets = b"".join(body[: count * length] for body, count in counted)
        return PackedRecords(np.frombuffer(octets, np.uint8).reshape(-1, length), traffic)
    steps, rest = _steps(template)
    records = [one for body, count in counted for one in _split(body, count, steps, rest)]
    return JoinedRecords([records], np.array([len(one) for one in records], np.int64), traffic)


def _shares(train: Train) -> Traffic:
    """Shares the packets and octets of the train, known as sums only, over its records."""
    return Traffic(_share(train.packets, train.records), _share(train.flow_octets, train.records))


def _share(total: int, count: int) -> NDArray[np.uint64]:
    """Returns ``total`` in ``count`` parts that differ by at most one."""
    ends = [total * place // count for place in range(count + 1)]
    return np.array([end - start for start, end in pairwise(ends)], np.uint64)


def _steps(template: Template) -> tuple[list[int], int]:
    """Returns the octets before each variable-length field, and those behind the last.

    Each number counts from the end of the variable-length field before.
    """
    steps, before = [], 0
    for field in template.fields:
        if field.is_variable:
            steps.append(before)
            before = 0
        else:
            before += field.length
    return steps, before


def _split(body: bytes, count: int, steps: list[int], rest: int) -> Iterator[bytes]:
    start = 0
    for _ in range(count):
        end = start
        for step in steps:
            end += step
            length = body[end]
            end += 1
            if length == 255:
                length = int.from_bytes(body[end : end + 2], "big")
                end += 2
            end += length
        end += rest
        yield body[start:end]
        start = end
