"""Describes how IPFIX (RFC 7011) and NetFlow v9 (RFC 3954) differ, as one value each."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.ipfix.template import Field, Template

_SET_HEADER = [("set_id", ">u2"), ("set_length", ">u2")]
#: A message holds one Set, because some collectors decode only the first.
_IPFIX_HEADER = np.dtype(
    [
        ("version", ">u2"),
        ("length", ">u2"),
        ("export_time", ">u4"),
        ("sequence", ">u4"),
        ("odid", ">u4"),
        *_SET_HEADER,
    ]
)
_NETFLOW9_HEADER = np.dtype(
    [
        ("version", ">u2"),
        ("count", ">u2"),
        ("uptime_ms", ">u4"),
        ("export_time", ">u4"),
        ("sequence", ">u4"),
        ("odid", ">u4"),
        *_SET_HEADER,
    ]
)
SET_HEADER_OCTETS = 4


def _ipfix_options(template: Template) -> bytes:
    """Encodes an Options Template of IPFIX, whose scope is counted in fields (section 3.4.2.2)."""
    head = struct.pack("!HHH", template.id, len(template.fields), template.scope_count)
    return head + _specifiers(template.fields)


def _netflow9_options(template: Template) -> bytes:
    """Encodes an Options Template of v9, whose lengths are in octets (RFC 3954 section 6.1)."""
    scope, options = (
        _specifiers(template.fields[: template.scope_count]),
        _specifiers(template.fields[template.scope_count :]),
    )
    return struct.pack("!HHH", template.id, len(scope), len(options)) + scope + options


def _specifiers(fields: tuple[Field, ...]) -> bytes:
    return b"".join(field.encode() for field in fields)


@dataclass(frozen=True, slots=True)
class Wire:
    """The format of one protocol.

    ``header`` packs the message header and the Set header. A Set is padded to a multiple of
    ``alignment`` octets.
    """

    version: int
    header: np.dtype[np.void]
    template_set: int
    options_template_set: int
    alignment: int
    #: True if the sequence number counts messages, False if it counts Data Records.
    counts_messages: bool
    encode_options: Callable[[Template], bytes]

    @property
    def overhead(self) -> int:
        """Returns the octets of a message without its records."""
        return self.header.itemsize

    def room(self, max_message: int) -> int:
        """Returns the octets for records in a message of at most ``max_message`` octets."""
        return (max_message - self.overhead) // self.alignment * self.alignment

    def message_for(self, octets: int) -> int:
        """Returns the octets of a message whose records have ``octets``."""
        return self.overhead + octets + self.padding(octets)

    @property
    def sequence_offset(self) -> int:
        """Returns the offset of the sequence number in a message."""
        fields: Mapping[str, tuple[Any, ...]] = self.header.fields or {}
        return int(fields["sequence"][1])

    def step(self, messages: int, records: int) -> int:
        """Returns how far so many messages with so many Data Records move the sequence number."""
        return messages if self.counts_messages else records

    def padding(self, octets: int) -> int:
        """Returns the octets of padding behind records of ``octets``."""
        return -octets % self.alignment

    def encode(self, template: Template) -> bytes:
        """Returns the (Options) Template Record."""
        if template.scope_count:
            return self.encode_options(template)
        return struct.pack("!HH", template.id, len(template.fields)) + _specifiers(template.fields)


IPFIX = Wire(
    version=10,
    header=_IPFIX_HEADER,
    template_set=2,
    options_template_set=3,
    alignment=1,
    counts_messages=False,
    encode_options=_ipfix_options,
)
NETFLOW9 = Wire(
    version=9,
    header=_NETFLOW9_HEADER,
    template_set=0,
    options_template_set=1,
    alignment=4,
    counts_messages=True,
    encode_options=_netflow9_options,
)
