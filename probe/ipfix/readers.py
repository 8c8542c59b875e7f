"""Templates as they are kept, and the readers of records that are made of those in use."""

from __future__ import annotations

from probe.ipfix.announcement import Announcement, Elements
from probe.ipfix.record import RecordReader
from probe.ipfix.template import Field, Template

#: What a Template costs beside its fields, in octets.
_TEMPLATE_OCTETS = 256


class KnownTemplate:
    """One of a domain. What it keeps is little more than what was sent: a flood of Templates must
    not cost more than itself."""

    __slots__ = ("announced", "minimum")

    def __init__(self, announced: Announcement) -> None:
        self.announced = announced
        self.minimum = announced.minimum

    @property
    def weight(self) -> int:
        """Octets that it takes, about."""
        return _TEMPLATE_OCTETS + len(self.announced.fields)


class Readers:
    """The readers that were used last, up to ``most_fields`` fields in all.

    A reader takes a hundred times the octets of its Template, so only records have one made. These
    have an octet for each of its fields at least: making it costs no more than they do.
    """

    def __init__(self, most_fields: int) -> None:
        self._most = most_fields
        self._fields = 0
        #: The one that was not used for longest comes first.
        self._kept: dict[KnownTemplate, RecordReader] = {}

    def of(self, known: KnownTemplate, elements: Elements) -> RecordReader:
        """The reader of a Template; ``elements`` says what its elements are."""
        reader = self._kept.pop(known, None)
        if reader is None:
            reader = _make(known.announced, elements)
            self._fields += known.announced.field_count
        self._kept[known] = reader
        while self._fields > self._most and len(self._kept) > 1:
            self.drop(next(iter(self._kept)))
        return reader

    def drop(self, known: KnownTemplate) -> None:
        """The Template is gone, or its elements are known better now."""
        if self._kept.pop(known, None):
            self._fields -= known.announced.field_count


def _make(announced: Announcement, elements: Elements) -> RecordReader:
    fields = tuple(Field(elements(pen, number), length) for pen, number, length in announced)
    return RecordReader(Template(announced.id, fields, announced.scope_count))
