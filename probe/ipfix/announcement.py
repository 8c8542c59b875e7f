"""What the decoders of both protocols share: headers, (Options) Templates as they arrive, Sets."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from probe.errors import DecodeError
from probe.ipfix.elements import Element
from probe.ipfix.template import Template

FIRST_DATA_SET = 256


@dataclass(frozen=True, slots=True)
class Header:
    """``octets`` is the header's own length. IPFIX has no uptime and no count."""

    octets: int
    export_time_s: int
    sequence: int
    domain: int
    uptime_ms: int | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Announcement:
    """An (Options) Template Record; a ``template`` without fields is a withdrawal."""

    template: Template
    is_options: bool


#: (enterprise number, element id) to what is known of the element.
Elements = Callable[[int, int], Element]


@dataclass(frozen=True, slots=True)
class Protocol:
    """How one version of the protocol is read.

    ``read_header`` and ``read_templates`` raise DecodeError or struct.error. The sequence number
    counts messages or Data Records; one that is up to ``latest`` behind is that of a late message,
    else the exporter began anew.
    """

    version: int
    template_set: int
    options_template_set: int
    counts_messages: bool
    latest: int
    read_header: Callable[[bytes], Header]
    read_templates: Callable[[memoryview, bool, Elements], Iterator[Announcement]]


def read_sets(octets: bytes, at: int) -> list[tuple[int, memoryview]]:
    """(id, body) of all Sets from ``at``; DecodeError unless they fill the message."""
    view, found = memoryview(octets), []
    while at < len(view):
        number, length = struct.unpack_from("!HH", view, at)
        if length < 4 or at + length > len(view):
            raise DecodeError(f"set {number}: length {length}, {len(view) - at} left")
        found.append((number, view[at + 4 : at + length]))
        at += length
    return found


def is_padding(rest: memoryview, shortest: int) -> bool:
    """Whether a Set may end with ``rest``, whose shortest record is this long."""
    return len(rest) < shortest and not any(rest)
