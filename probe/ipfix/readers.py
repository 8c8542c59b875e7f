"""Keeps Templates, and makes readers of records for those in use."""

from __future__ import annotations

from probe.ipfix.announcement import Announcement, Elements
from probe.ipfix.record import RecordReader
from probe.ipfix.template import Field, Template

#: Memory of a Template beside its fields, in octets.
_TEMPLATE_OCTETS = 256


class KnownTemplate:
    """One Template of a domain.

    It takes little more memory than the octets that were sent, so a flood of Templates costs no
    more than its own size.
    """

    __slots__ = ("announced", "minimum")

    def __init__(self, announced: Announcement) -> None:
        self.announced = announced
        self.minimum = announced.minimum

    @property
    def weight(self) -> int:
        """Returns the approximate memory of the Template, in octets."""
        return _TEMPLATE_OCTETS + len(self.announced.fields)


class Readers:
    """Keeps the readers that were used last, with at most ``most_fields`` fields in all.

    A reader takes a hundred times the memory of its Template, so it is made when the first record
    arrives. A record has at least one octet for each field, which bounds the cost for a sender.
    """

    def __init__(self, most_fields: int) -> None:
        self._most = most_fields
        self._fields = 0
        #: Ordered by use; the reader that was unused for longest comes first.
        self._kept: dict[KnownTemplate, RecordReader] = {}

    def of(self, known: KnownTemplate, elements: Elements) -> RecordReader:
        """Returns the reader of a Template, whose elements ``elements`` looks up."""
        reader = self._kept.pop(known, None)
        if reader is None:
            reader = _make(known.announced, elements)
            self._fields += known.announced.field_count
        self._kept[known] = reader
        while self._fields > self._most and len(self._kept) > 1:
            self.drop(next(iter(self._kept)))
        return reader

    def drop(self, known: KnownTemplate) -> None:
        """Drops the reader of a Template that is gone or whose elements are known better now."""
        if self._kept.pop(known, None):
            self._fields -= known.announced.field_count


def _make(announced: Announcement, elements: Elements) -> RecordReader:
    fields = tuple(Field(elements(pen, number), length) for pen, number, length in announced)
    return RecordReader(Template(announced.id, fields, announced.scope_count))
