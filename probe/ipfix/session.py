"""The Exporting Process: Templates, type information and Data Records as messages (RFC 7011, 5610).

Sans-io: records and the time go in, messages come out. How the parts fit together::

    elements = load_elements(private_pen=32473)              # probe.mapping
    definition = load_template("full", elements)             # or "numeric", or a path
    encoder = Encoder(definition, owner_table, Privacy())    # one per session
    session = ExportSession(encoder, odid=1, max_message=1400, refresh_s=600)
    destination = UdpDestination(parse_destination("ipfix://[::1]:4739"))   # probe.export.udp

    # every tick, per destination
    if destination.needs_templates():          # at start and after it was unreachable
        session.resend_templates()
    session.max_message = destination.max_message            # lowered by a smaller path MTU
    destination.enqueue(session.messages(records, time.time()))
    due = destination.pump(time.monotonic())   # call again at that time, or None: all is sent
    # when owners are released:  encoder.forget(indices)
    # at the end:  destination.flush(time.monotonic() + 5.0); destination.close()

A full cache is more than the queue of a destination holds: hand records over by some thousands
and let ``destination.backlog`` shrink between (at the end ``flush`` after each lot).
``messages`` is called every tick, with an empty array too, so that Templates are sent again in
time. It encodes at once: owners may be released afterwards. ``session.statistics`` and
``destination.statistics`` are plain dataclasses of counters.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from probe.errors import ConfigError
from probe.ipfix.elements import Element
from probe.ipfix.message import (
    IPFIX,
    OVERHEAD,
    Framing,
    JoinedRecords,
    Records,
    Train,
    Wire,
    frame_records,
    frame_whole,
)
from probe.ipfix.template import Field, Template
from probe.ipfix.text import encode_text, encode_variable
from probe.ipfix.types import TYPES, VARIABLE

#: RFC 5610 section 3: scope is the element's number. The description is left out, since options
#: with two variable-length fields are refused by nfdump 1.7.8.
_TYPE_FIELDS = [
    ("privateEnterpriseNumber", 346, "unsigned32"),
    ("informationElementId", 303, "unsigned16"),
    ("informationElementDataType", 339, "unsigned8"),
    ("informationElementSemantics", 344, "unsigned8"),
    ("informationElementUnits", 345, "unsigned16"),
    ("informationElementName", 341, "string"),
]


class RecordEncoder(Protocol):
    """What turns flow records into Data Records (``probe.mapping.Encoder``)."""

    @property
    def templates(self) -> tuple[Template, ...]: ...

    def set_room(self, octets: int) -> None:
        """Let no record be longer than this; ConfigError where that cannot be."""

    def encode(self, records: NDArray[np.void]) -> Iterable[tuple[int, Records]]:
        """(Template id, Data Records) of all ``records``."""


@dataclass(slots=True)
class SessionStatistics:
    messages: int = 0
    octets: int = 0
    data_records: int = 0
    template_records: int = 0
    type_records: int = 0


class ExportSession:
    """One Transport Session with one destination, in one Observation Domain.

    ``max_message`` bounds the octets of a message, ``refresh_s`` is the longest time between two
    transmissions of a Template (RFC 7011 section 8.4). ConfigError: they leave no room.
    """

    def __init__(
        self,
        encoder: RecordEncoder,
        odid: int = 1,
        max_message: int = 1400,
        refresh_s: float = 600.0,
        wire: Wire = IPFIX,
    ) -> None:
        self.statistics = SessionStatistics()
        self._encoder = encoder
        self._odid = odid
        self._wire = wire
        self._refresh_s = refresh_s
        self._sequence = 0
        self._templates_sent_s: float | None = None
        self._max_message = 0
        self.max_message = max_message

    @property
    def max_message(self) -> int:
        return self._max_message

    @max_message.setter
    def max_message(self, octets: int) -> None:
        if octets == self._max_message:
            return
        room = min(octets, 65535) - OVERHEAD
        for template in self._encoder.templates:
            if len(template.encode()) > room:
                raise ConfigError(f"a Template Record does not fit into {octets} octets: use fewer")
        self._encoder.set_room(room)
        self._max_message = octets

    def resend_templates(self) -> None:
        """Begin the next messages with all Templates: the destination may have lost them."""
        self._templates_sent_s = None

    def messages(self, records: NDArray[np.void], now_s: float) -> list[Train]:
        """Messages for ``records`` (RECORD_DTYPE), after the Templates when these are due.

        ``now_s`` is Unix time in seconds. Records of a batch may change their order.
        """
        trains = self._template_messages(now_s) if self._templates_due(now_s) else []
        if len(records):
            for template_id, encoded in self._encoder.encode(records):
                self.statistics.data_records += len(encoded)
                trains += self._frame_data(template_id, encoded, now_s)
        self.statistics.messages += sum(map(len, trains))
        self.statistics.octets += sum(len(train.octets) for train in trains)
        return trains

    def _templates_due(self, now_s: float) -> bool:
        sent_s = self._templates_sent_s
        # A clock that was set back must not silence the Templates.
        return sent_s is None or not 0 <= now_s - sent_s < self._refresh_s

    def _template_messages(self, now_s: float) -> list[Train]:
        self._templates_sent_s = now_s
        templates = self._encoder.templates
        trains = []
        elements = _enterprise_elements(templates)
        if elements:  # first, for the types are to be known when a Template names the elements
            options = _type_template(max(template.id for template in templates) + 1)
            trains += self._frame_templates(self._wire.options_template_set, [options], now_s)
            trains += self._frame_data(options.id, _type_records(elements), now_s)
            self.statistics.type_records += len(elements)
        return trains + self._frame_templates(self._wire.template_set, templates, now_s)

    def _frame_templates(
        self, set_id: int, templates: tuple[Template, ...] | list[Template], now_s: float
    ) -> list[Train]:
        self.statistics.template_records += len(templates)
        bodies = [template.encode() for template in templates]
        return frame_whole(self._framing(set_id, now_s), bodies)

    def _frame_data(self, template_id: int, records: Records, now_s: float) -> list[Train]:
        trains = frame_records(self._framing(template_id, now_s), records)
        self._sequence = (self._sequence + len(records)) & 0xFFFFFFFF
        return trains

    def _framing(self, set_id: int, now_s: float) -> Framing:
        return Framing(
            self._wire, set_id, int(now_s), self._sequence, self._odid, self._max_message
        )


def _enterprise_elements(templates: tuple[Template, ...]) -> list[Element]:
    fields = (field for template in templates for field in template.fields)
    return list(dict.fromkeys(field.element for field in fields if field.element.pen))


def _type_template(template_id: int) -> Template:
    fields = []
    for name, number, kind in _TYPE_FIELDS:
        element = Element(name, 0, number, TYPES[kind])
        fields.append(Field(element, VARIABLE if kind == "string" else element.type.length))
    return Template(template_id, tuple(fields), scope_count=2)


def _type_records(elements: list[Element]) -> JoinedRecords:
    records = [
        struct.pack("!IHBBH", e.pen, e.id, e.type.code, e.semantics, e.units)
        + encode_variable(encode_text(e.name))
        for e in elements
    ]
    return JoinedRecords([records], np.array([len(record) for record in records], np.int64))
