"""The Exporting Process: makes messages of Templates, types and Data Records (RFC 7011, 5610).

The session does no I/O: it takes records and the time, and returns messages. The parts fit together
like this::

    elements = load_elements(private_pen=32473)              # probe.mapping
    definition = load_template("full", elements)             # or "numeric", or a path
    encoder = Encoder(definition, owner_table, Privacy())    # one per session
    session = ExportSession(encoder, odid=1, max_message=1400, refresh_s=60, options=options)
    # of probe.export.transports.udp
    destination = UdpSender(parse_destination("ipfix://[::1]:4739"))

    # every tick, per destination
    session.max_message = destination.max_message            # what the path takes
    if destination.needs_templates():          # at start and after it was unreachable
        session.resend_templates()
    destination.enqueue(session.messages(records, time.time()))
    due = destination.pump(time.monotonic())   # call again at that time, or None: all is sent
    # when owners are released:  encoder.forget(indices)
    # at the end:  destination.flush(time.monotonic() + 5.0); destination.close()

A full cache is more than the queue of a destination holds. So hand over some thousands of records
at a time, and wait for ``destination.backlog`` to shrink (at the end: ``flush`` each time).
Call ``messages`` every tick, even with an empty array, so that Templates are repeated in time.
It encodes at once, so owners may be released afterwards. ``session.statistics`` and
``destination.statistics`` are dataclasses of counters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from probe.errors import ConfigError
from probe.ipfix.elements import Element
from probe.ipfix.message import Framing, Records, Train, frame_records, frame_template, renumber
from probe.ipfix.netflow9 import Netflow9Table
from probe.ipfix.options import (
    LONGEST_STRING,
    OptionRow,
    OptionsDefinition,
    encode_options,
    type_rows,
)
from probe.ipfix.recut import recut_train, sequence_of, set_id_of
from probe.ipfix.template import Template, template_id
from probe.ipfix.text import Strings
from probe.ipfix.wire import IPFIX, Wire

_MAX_LENGTH = 65535  # of a message, in octets (RFC 7011 section 3.1)
_TYPES = "types"
#: Every tenth refresh repeats the type records. Names and types never change, and a collector
#: without them can still read the flows.
_REFRESHES_OF_TYPES = 10
#: Enterprise numbers of IANA itself and of the reverse of its elements (RFC 5103).
_REGISTERED = {0, 29305}

#: Returns the current rows of each Options Template, by its name.
OptionSource = Callable[[], Mapping[str, Sequence[OptionRow]]]


class RecordEncoder(Protocol):
    """Encodes flow records to Data Records, as ``probe.mapping.Encoder`` does."""

    @property
    def templates(self) -> tuple[Template, ...]: ...

    @property
    def least_room(self) -> int:
        """The length of a record, in octets, when its strings are as short as they can be cut."""

    def set_room(self, octets: int) -> None:
        """Bounds the length of records, in octets; the bound is at least ``least_room``."""

    def encode(self, records: NDArray[np.void]) -> Iterable[tuple[int, Records]]:
        """Yields (Template id, Data Records) for all ``records``."""


@dataclass(frozen=True, slots=True)
class Options:
    """The Options Templates of a session, and the sources of their records.

    ``netflow9`` finds the elements behind field types, for sessions of NetFlow v9.
    ``strings`` says how strings are written. ``periodic`` has sources whose rows are sent every
    ``period_s`` seconds, instead of together with the other options.
    """

    definitions: Sequence[OptionsDefinition] = ()
    read: OptionSource = dict
    netflow9: Netflow9Table | None = None
    periodic: Mapping[str, Callable[[], Sequence[OptionRow]]] = field(default_factory=dict)
    period_s: float = 60.0
    strings: Strings | None = None


@dataclass(slots=True)
class SessionStatistics:
    messages: int = 0
    octets: int = 0
    data_records: int = 0
    template_records: int = 0
    option_records: int = 0


class ExportSession:
    """One Transport Session with one destination, in one Observation Domain.

    ``max_message`` bounds the octets of a message. A later value below ``least_message`` is raised
    to that. ``refresh_s`` is the longest time between two transmissions of a Template (RFC 7011
    section 8.4) and of the options; types are repeated less often. ``repeats_templates`` is False
    for reliable transports: ``restart`` sends Templates once, and only the options are repeated.
    ``boot_s`` (Unix time) is the origin of NetFlow v9's sysUptime. Raises ConfigError if
    ``max_message`` is less than ``least_message`` at the start.
    """

    def __init__(
        self,
        encoder: RecordEncoder,
        odid: int = 1,
        max_message: int = 1400,
        refresh_s: float = 60.0,
        wire: Wire = IPFIX,
        options: Options | None = None,
        boot_s: float = 0.0,
        repeats_templates: bool = True,
    ) -> None:
        self.statistics = SessionStatistics()
        self._encoder = encoder
        self.odid = odid
        self._wire = wire
        self._options = options or Options()
        self._option_templates = self._announced_options()
        self._types = self._described_elements()
        self._refresh_s = refresh_s
        self._boot_ms = round(boot_s * 1000)
        self._repeats_templates = repeats_templates
        self._has_begun = repeats_templates
        self._sequence = 0
        self._refreshes = 0  # since types were sent, modulo _REFRESHES_OF_TYPES
        self._templates_sent_s: float | None = None
        self._options_sent_s: float | None = None
        self._periodic_sent_s: float | None = None
        self._max_message = 0
        self.least_message = self._wire.message_for(self._least_room())
        if max_message < self.least_message:
            raise ConfigError(
                f"the template does not fit into messages of {max_message} octets: raise "
                f"max_message to at least {self.least_message}, or use a profile or template with "
                "fewer elements"
            )
        self.max_message = max_message

    @property
    def templates(self) -> tuple[Template, ...]:
        """Returns all Templates that this session announces."""
        return *self._option_templates.values(), *self._encoder.templates

    @property
    def max_message(self) -> int:
        return self._max_message

    @max_message.setter
    def max_message(self, octets: int) -> None:
        octets = max(octets, self.least_message)
        if octets == self._max_message:
            return
        self._encoder.set_room(self._wire.room(min(octets, _MAX_LENGTH)))
        self._max_message = octets

    def _least_room(self) -> int:
        """Returns the octets that the longest Template or record needs."""
        templates = max(len(self._wire.encode(template)) for template in self.templates)
        options = [_longest(template) for template in self._option_templates.values()]
        return max(templates, self._encoder.least_room, *options)

    def resend_templates(self) -> None:
        """Sends types and Templates before the next records: the destination may have lost them."""
        self._templates_sent_s = None
        self._refreshes = 0

    def resend_options(self) -> None:
        """Sends the options with the next messages, because something in them has changed."""
        self._options_sent_s = None

    def messages(self, records: NDArray[np.void], now_s: float) -> list[Train]:
        """Returns messages for ``records`` (RECORD_DTYPE), after the Templates that are due.

        ``now_s`` is Unix time in seconds. The records of a batch may leave in another order.
        """
        trains = self._announcements(now_s)
        if len(records):
            for number, encoded in self._encoder.encode(records):
                self.statistics.data_records += len(encoded)
                trains += self._frame_data(number, encoded, now_s)
        return self._counted(trains)

    def last_messages(self, now_s: float) -> list[Train]:
        """Returns the options once more, with the final statistics."""
        if not self._has_begun:
            return []
        return self._counted(self._option_messages(now_s) + self._periodic_messages(now_s))

    def restart(
        self, backlog: Sequence[Train], now_s: float, first_sequence: int = 0
    ) -> list[Train]:
        """Begins a new Transport Session (RFC 7011 sections 10.3.4, 10.4.3).

        Returns its Templates and then ``backlog``: messages of the session before, which get
        sequence numbers of the new one.
        """
        self._has_begun = True
        self._sequence = first_sequence
        self.resend_templates()
        first = self._counted(self._announcements(now_s))
        moved, self._sequence = renumber(backlog, self._sequence, self._wire)
        return first + moved

    def recut(self, backlog: Sequence[Train]) -> list[Train]:
        """Re-frames ``backlog``, this session's latest messages, for a smaller ``max_message``."""
        before = sum(map(len, backlog))
        cut: list[Train] = []
        more = 0  # how many more messages there are than before, so far
        for train in backlog:
            sequence = sequence_of(train, self._wire) + self._wire.step(more, 0)
            parts = self._recut(train, sequence & 0xFFFFFFFF)
            more += sum(map(len, parts)) - len(train)
            cut += parts
        self._sequence = (self._sequence + self._wire.step(more, 0)) & 0xFFFFFFFF
        self.statistics.messages += sum(map(len, cut)) - before
        self.statistics.octets += sum(len(one.octets) for one in cut)
        self.statistics.octets -= sum(len(one.octets) for one in backlog)
        return cut

    def _recut(self, train: Train, sequence: int) -> list[Train]:
        number = set_id_of(train, self._wire)
        template = next((one for one in self.templates if one.id == number), None)
        if train.size <= self._max_message or template is None:
            return renumber([train], sequence, self._wire)[0]
        return recut_train(train, self._wire, template, sequence, self._max_message)

    def _announcements(self, now_s: float) -> list[Train]:
        """Returns the Templates and options that are due."""
        if not self._has_begun:  # ``restart`` sends the Templates once there is a connection
            return []
        if self._is_due(self._templates_sent_s, now_s, self._repeats_templates):
            trains = self._template_messages(now_s) + self._option_messages(now_s)
        elif self._is_due(self._options_sent_s, now_s):
            trains = self._option_messages(now_s)
        else:
            trains = []
        if _is_due(self._periodic_sent_s, now_s, self._options.period_s):
            trains += self._periodic_messages(now_s)
        return trains

    def _is_due(self, sent_s: float | None, now_s: float, repeats: bool = True) -> bool:
        return _is_due(sent_s, now_s, self._refresh_s if repeats else math.inf)

    def _template_messages(self, now_s: float) -> list[Train]:
        """Returns the Templates, after the types of their elements (RFC 5610)."""
        self._templates_sent_s = now_s
        trains: list[Train] = []
        for name in sorted(self._option_templates, key=lambda name: name != _TYPES):
            template = self._option_templates[name]
            trains += self._frame_template(self._wire.options_template_set, template, now_s)
            if name == _TYPES and self._refreshes == 0:
                trains += self._frame_options(template, type_rows(self._types), now_s)
        for template in self._encoder.templates:
            trains += self._frame_template(self._wire.template_set, template, now_s)
        self._refreshes = (self._refreshes + 1) % _REFRESHES_OF_TYPES
        return trains

    def _option_messages(self, now_s: float) -> list[Train]:
        self._options_sent_s = now_s
        trains: list[Train] = []
        rows = self._options.read() if self._option_templates else {}
        for name, template in self._option_templates.items():
            trains += self._frame_options(template, rows.get(name, ()), now_s)
        return trains

    def _periodic_messages(self, now_s: float) -> list[Train]:
        self._periodic_sent_s = now_s
        trains: list[Train] = []
        for name, read in self._options.periodic.items():
            if template := self._option_templates.get(name):
                trains += self._frame_options(template, read(), now_s)
        return trains

    def _frame_options(
        self, template: Template, rows: Sequence[OptionRow], now_s: float
    ) -> list[Train]:
        if not rows:
            return []
        self.statistics.option_records += len(rows)
        records = encode_options(template, rows, self._options.strings)
        return self._frame_data(template.id, records, now_s)

    def _frame_template(self, set_id: int, template: Template, now_s: float) -> list[Train]:
        """Returns a message with one Template.

        If a Set has several, go-ipfix and PyPI's netflow read only the first.
        """
        self.statistics.template_records += 1
        train = frame_template(self._framing(set_id, now_s), self._wire.encode(template))
        self._advance([train])
        return [train]

    def _frame_data(self, number: int, records: Records, now_s: float) -> list[Train]:
        trains = frame_records(self._framing(number, now_s), records)
        self._advance(trains)
        return trains

    def _advance(self, trains: Sequence[Train]) -> None:
        step = sum(self._wire.step(len(train), train.records) for train in trains)
        self._sequence = (self._sequence + step) & 0xFFFFFFFF

    def _framing(self, set_id: int, now_s: float) -> Framing:
        # Collectors of v9 compute times as unix_secs - sysUptime + value, so both must be of the
        # same instant. It is rounded up: pmacct 1.7.7 reads a value above sysUptime as 49 days
        # later.
        now = math.ceil(now_s) if self._wire.counts_messages else int(now_s)
        return Framing(
            self._wire,
            set_id,
            now,
            now * 1000 - self._boot_ms,
            self._sequence,
            self.odid,
            min(self._max_message, _MAX_LENGTH),
        )

    def _counted(self, trains: list[Train]) -> list[Train]:
        self.statistics.messages += sum(map(len, trains))
        self.statistics.octets += sum(len(train.octets) for train in trains)
        return trains

    def _announced_options(self) -> dict[str, Template]:
        taken = {template.id for template in self._encoder.templates}
        announced = {}
        for definition in self._options.definitions:
            fields = definition.scope + definition.fields
            template = definition.template(template_id(fields, taken, len(definition.scope)))
            taken.add(template.id)
            announced[definition.name] = template
        return announced

    def _described_elements(self) -> list[Element]:
        """Returns the elements in use that no registry of IANA describes, without duplicates."""
        used = [field.element for template in self.templates for field in template.fields]
        if table := self._options.netflow9:
            used = [table.element(element.id) or element for element in used]
        return list(dict.fromkeys(one for one in used if one.pen not in _REGISTERED))


def _longest(template: Template) -> int:
    """Returns the octets of the longest record of an Options Template."""
    strings = sum(field.is_variable for field in template.fields)
    return template.fixed_length + strings * LONGEST_STRING


def _is_due(sent_s: float | None, now_s: float, period_s: float) -> bool:
    """Returns True if a repetition is due, which it also is after the clock was set back."""
    if sent_s is None:
        return True
    return period_s < math.inf and not 0 <= now_s - sent_s < period_s
