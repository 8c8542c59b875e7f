"""Encodes flow records to Data Records in batches (RFC 7011 section 3.4.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.errors import ConfigError
from probe.flow.columns import BIFLOW_DTYPE
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows
from probe.ipfix.elements import Element
from probe.ipfix.message import JoinedRecords, PackedRecords, Records, Traffic
from probe.ipfix.template import Field, Template, TemplateDefinition, template_id
from probe.ipfix.text import Strings
from probe.mapping.group_by_owner import group_by_owner
from probe.mapping.interned import InternedFields, Run, Table, block_kind, fixed_kind
from probe.mapping.tables import ATTRIBUTES, COLUMNS, TCP_STATES, TRANSLATION, Privacy

#: Marks translated flows, in addition to their IP version.
_TRANSLATED = 0x80
#: Records that are encoded at a time. With fewer, the calls cost more than the work.
_CHUNK = 2048
#: Octets of fixed-length records that are encoded at a time. With more, the intermediate arrays do
#: not fit into the processor's cache.
_LEAST_CHUNK, _MOST_CHUNK = 256, 4096
_CHUNK_OCTETS = 1 << 19
#: The least octets that the encoder leaves to each string of an owner.
_LEAST_STRING = 10

#: Octets of the longest name of a TCP state, with its length field.
_STATE_ROOM = 16

#: Returns one field of all records, from the records and the packed numbers of their owners.
Filler = Callable[[Rows, dict[str, Rows]], NDArray[Any]]


class Encoder:
    """Encodes records of one Template definition, for IPv4 and IPv6 flows (``RecordEncoder``).

    Translated IPv4 flows have a Template of their own, with the elements of NAT. If a record would
    not fit into a message, the strings of owners are shortened by whole characters. ``boot_s``
    (Unix time) is the origin of times relative to sysUptime. ``strings`` says how strings are
    written, if not as in RFC 7011. Raises ConfigError if the definition names an element for which
    Sockflow has no value.
    """

    def __init__(
        self,
        definition: TemplateDefinition,
        owners: OwnerTable,
        privacy: Privacy | None = None,
        boot_s: float = 0.0,
        strings: Strings | None = None,
    ) -> None:
        may_leave = _privacy_filter(privacy or Privacy())
        self._encoders: dict[_Kind, _TemplateEncoder] = {}
        taken: set[int] = set()
        for kind in _kinds(definition):
            fields = definition.fields(kind.ip_version, _keep(may_leave, kind.translated))
            template = Template(template_id(fields, taken), fields)
            taken.add(template.id)
            self._encoders[kind] = _TemplateEncoder(
                template, owners, definition.source, round(boot_s * 1000), strings
            )
        self._tells_nat = _Kind(4, True) in self._encoders

    @property
    def templates(self) -> tuple[Template, ...]:
        return tuple(encoder.template for encoder in self._encoders.values())

    @property
    def least_room(self) -> int:
        return max(encoder.least_room for encoder in self._encoders.values())

    def set_room(self, octets: int) -> None:
        for encoder in self._encoders.values():
            encoder.set_room(octets)

    def forget(self, indices: Iterable[int]) -> None:
        """Drops the encoded attributes of released owners, whose indices may be reused."""
        released = list(indices)
        for encoder in self._encoders.values():
            encoder.forget(released)

    def encode(self, records: Rows) -> Iterator[tuple[int, Records]]:
        """Yields (Template id, Data Records) of ``records``, whose order may change.

        ``records`` are of RECORD_DTYPE, or of BIFLOW_DTYPE if ``for_biflow`` made the definition.
        """
        kinds = records["ip_version"].astype(np.uint8)
        if self._tells_nat:
            # only IPv4 has a Template for translated flows, and no record may lack a Template
            translated = (records["translated"] != 0) & (kinds == 4)
            kinds |= np.where(translated, _TRANSLATED, 0).astype(np.uint8)
        for kind, encoder in self._encoders.items():
            indices = np.flatnonzero(kinds == kind.code)
            # ``take`` is thirty times faster than indexing a structured array with an array
            chosen = records if len(indices) == len(records) else records.take(indices)
            if len(chosen):
                for part in encoder.encode(chosen):
                    yield encoder.template.id, part


@dataclass(frozen=True, slots=True)
class _Kind:
    """The flows that share a Template."""

    ip_version: int
    translated: bool = False

    @property
    def code(self) -> int:
        return self.ip_version | (_TRANSLATED if self.translated else 0)


def _kinds(definition: TemplateDefinition) -> list[_Kind]:
    kinds = [_Kind(4), _Kind(6)]
    return [*kinds, _Kind(4, True)] if definition.names() & TRANSLATION else kinds


def _keep(may_leave: Callable[[Element], bool], translated: bool) -> Callable[[Element], bool]:
    return lambda element: may_leave(element) and (translated or element.name not in TRANSLATION)


class _TemplateEncoder:
    """Encodes the records of one Template, as packed runs of numbers between runs of strings."""

    def __init__(
        self,
        template: Template,
        owners: OwnerTable,
        source: str,
        boot_ms: int,
        strings: Strings | None = None,
    ) -> None:
        self.template = template
        for field in template.fields:
            _refuse_unusable(field, source)
        runs = [list(run) for _, run in groupby(enumerate(template.fields), _run_key)]
        tables: dict[str, Table] = {
            "source_owner": owners,
            "destination_owner": owners,
            "tcp_state": TCP_STATES,
        }
        interned = {key: _interned(key, table, runs, strings) for key, table in tables.items()}
        self._interned = {key: fields for key, fields in interned.items() if not fields.is_empty}
        self._runs = _runs(runs, boot_ms)
        self._fixed_length = template.fixed_length
        self._has_text = template.has_variable_length

    @property
    def least_room(self) -> int:
        """Returns the octets of a record when its strings are as short as they can be cut."""
        sides = [side.string_count for side in self._owner_sides() if side.string_count]
        states = self._interned.get("tcp_state")
        states_room = _STATE_ROOM * states.string_count if states else 0
        strings = len(sides) * _LEAST_STRING * max(sides, default=0)
        return self.template.fixed_length + states_room + strings

    def set_room(self, octets: int) -> None:
        """Divides what numbers leave of a record's ``octets`` between the strings of its owners.

        Raises ValueError if ``octets`` is less than ``least_room``.
        """
        if octets < self.least_room:
            raise ValueError(f"a record needs {self.least_room} octets, not {octets}")
        free = octets - self.template.fixed_length
        if states := self._interned.get("tcp_state"):
            states.set_limit(_STATE_ROOM * states.string_count)
            free -= _STATE_ROOM * states.string_count
        sides = [side for side in self._owner_sides() if side.string_count]
        share = free // max(1, len(sides))
        for side in sides:
            side.set_limit(share)

    def forget(self, indices: list[int]) -> None:
        for side in self._owner_sides():
            side.forget(indices)

    def encode(self, records: Rows) -> Iterator[Records]:
        for key, interned in self._interned.items():
            interned.prepare(records[key])
        if not self._has_text:
            count = min(_MOST_CHUNK, max(_LEAST_CHUNK, _CHUNK_OCTETS // self._fixed_length))
            for start in range(0, len(records), count):
                chunk = records[start : start + count]
                yield PackedRecords(self._packed(chunk), _traffic(chunk))
            return
        groups, others = group_by_owner(self._owner_keys(records))
        for places in groups:
            for start in range(0, len(places), _CHUNK):
                chunk = records.take(places[start : start + _CHUNK])
                yield PackedRecords(self._packed_group(chunk), _traffic(chunk))
        if len(others):
            yield from self._encode_others(records.take(others) if groups else records)

    def _encode_others(self, records: Rows) -> Iterator[Records]:
        lengths = self._lengths(records)
        # records of equal length side by side make messages of equal length: one system call
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(records), _CHUNK):
            chosen = order[start : start + _CHUNK]
            yield self._joined(records.take(chosen), lengths.take(chosen))

    def _owner_sides(self) -> list[InternedFields]:
        return [fields for key, fields in self._interned.items() if key != "tcp_state"]

    def _numbers(self, records: Rows) -> dict[str, Rows]:
        """Returns the packed numbers of the owners of each record."""
        return {key: fields.numbers.take(records[key]) for key, fields in self._interned.items()}

    def _packed(self, records: Rows) -> NDArray[np.uint8]:
        (run,) = self._runs
        assert isinstance(run, _NumberRun)
        return run.packed(records, self._numbers(records)).view(np.uint8).reshape(len(records), -1)

    def _owner_keys(self, records: Rows) -> NDArray[np.int64]:
        """Returns equal keys for records that differ in nothing but their own numbers."""
        keys = np.zeros(len(records), np.int64)
        for key, fields in self._interned.items():
            keys *= len(fields.text_length)
            keys += records[key]
        return keys

    def _packed_group(self, records: Rows) -> NDArray[np.uint8]:
        """Encodes records of one group. Their strings are written once, and repeated."""
        numbers = self._numbers(records[:1])
        parts = [
            bytes(run.length)
            if isinstance(run, _NumberRun)
            else self._interned[run.key].texts[run.index][records[run.key][0]]
            for run in self._runs
        ]
        one = bytearray().join(parts)
        octets = np.frombuffer(one * len(records), np.uint8).reshape(len(records), len(one))
        start = 0
        for run, part in zip(self._runs, parts, strict=True):
            if isinstance(run, _NumberRun):
                run.fill(octets[:, start : start + run.length], records, numbers)
            start += len(part)
        return octets

    def _lengths(self, records: Rows) -> NDArray[np.int64]:
        lengths = np.full(len(records), self._fixed_length, np.int64)
        for key, fields in self._interned.items():
            lengths += fields.text_length.take(records[key])
        return lengths

    def _joined(self, records: Rows, lengths: NDArray[np.int64]) -> JoinedRecords:
        numbers = self._numbers(records)
        columns = [
            run.pieces(records, numbers)
            if isinstance(run, _NumberRun)
            else self._interned[run.key].texts[run.index].take(records[run.key]).tolist()
            for run in self._runs
        ]
        return JoinedRecords(columns, lengths, _traffic(records))


class _NumberRun:
    """Consecutive fixed-length fields; those of one owner are copied as one block."""

    def __init__(self, fields: Run, boot_ms: int) -> None:
        kinds: list[tuple[str, str]] = []
        self._fill: list[tuple[str, Filler]] = []
        for key, block in _blocks(fields):
            position, field = block[0]
            name = f"f{position}"
            kinds.append((name, block_kind(block) if key else _kind(field)))
            self._fill.append((name, _gather(key, name) if key else _filler(field, boot_ms)))
        self._dtype = np.dtype(kinds)

    @property
    def length(self) -> int:
        return self._dtype.itemsize

    def packed(self, records: Rows, numbers: dict[str, Rows]) -> Rows:
        out = np.empty(len(records), self._dtype)
        self._write(out, records, numbers)
        return out

    def fill(self, octets: NDArray[np.uint8], records: Rows, numbers: dict[str, Rows]) -> None:
        """Fills ``octets`` of shape (records, ``length``).

        ``numbers`` has one row for each record, or one for all.
        """
        self._write(octets.view(self._dtype)[:, 0], records, numbers)

    def _write(self, out: Rows, records: Rows, numbers: dict[str, Rows]) -> None:
        for name, values in self._fill:
            out[name] = values(records, numbers)

    def pieces(self, records: Rows, numbers: dict[str, Rows]) -> list[bytes]:
        packed: list[bytes] = (
            self.packed(records, numbers).view(f"V{self._dtype.itemsize}").tolist()
        )
        return packed


@dataclass(frozen=True, slots=True)
class _TextRun:
    """Consecutive strings of one index column: ``InternedFields.texts[index]``."""

    key: str
    index: int


def _run_key(entry: tuple[int, Field]) -> str:
    """Returns the key that consecutive fields must share to be encoded together, '' for numbers."""
    _, field = entry
    return ATTRIBUTES[field.element.name].key if field.is_variable else ""


def _runs(runs: list[Run], boot_ms: int) -> list[_NumberRun | _TextRun]:
    result: list[_NumberRun | _TextRun] = []
    count: Counter[str] = Counter()
    for run in runs:
        key = _run_key(run[0])
        result.append(_TextRun(key, count[key]) if key else _NumberRun(run, boot_ms))
        count[key] += 1
    return result


def _interned(key: str, table: Table, runs: list[Run], strings: Strings | None) -> InternedFields:
    fixed = [block for run in runs if not _run_key(run[0]) for block in _blocks(run)]
    own = [block for block_key, block in fixed if block_key == key]
    texts = [[field for _, field in run] for run in runs if _run_key(run[0]) == key]
    return InternedFields(table, own, texts, strings)


def _blocks(run: Run) -> Iterator[tuple[str, Run]]:
    """Yields fields that are filled together, with their index column ('' if they have none)."""
    for key, block in groupby(run, _attribute_key):
        if key:
            yield key, list(block)
        else:
            yield from (("", [entry]) for entry in block)


def _attribute_key(entry: tuple[int, Field]) -> str:
    attribute = ATTRIBUTES.get(entry[1].element.name)
    return attribute.key if attribute else ""


def _kind(field: Field) -> str:
    """Returns the numpy kind of a fixed-length field; addresses are copied unchanged."""
    if field.element.type.name in ("ipv4Address", "ipv6Address"):
        return f"V{field.length}"
    return fixed_kind(field)


def _gather(key: str, column: str) -> Filler:
    return lambda _, numbers: numbers[key][column]


def _filler(field: Field, boot_ms: int) -> Filler:
    """Returns the function that gives one field of all records from a column of the records."""
    source = COLUMNS[field.element.name]
    if _kind(field).startswith("V"):
        kind = _kind(field)
        return lambda records, _: records[source.name].view(kind)[:, 0]
    if source.is_uptime:
        return lambda records, _: (records[source.name] // 1_000_000 - boot_ms) & 0xFFFFFFFF
    convert = source.convert or (lambda values: values)
    if BIFLOW_DTYPE[source.name].itemsize <= field.length or source.convert:
        return lambda records, _: convert(records[source.name])
    most = (1 << 8 * field.length) - 1
    return lambda records, _: np.minimum(records[source.name], most)


def _traffic(records: Rows) -> Traffic:
    """Returns packets and octets of each record, of both directions for Biflows."""
    packets, octets = records["packets"], records["octets"]
    if records.dtype == BIFLOW_DTYPE:
        packets, octets = packets + records["reverse_packets"], octets + records["reverse_octets"]
    return Traffic(packets, octets)


def _refuse_unusable(field: Field, source: str) -> None:
    element = field.element
    if element.name not in COLUMNS and element.name not in ATTRIBUTES:
        raise ConfigError(f"{source}: Sockflow has no value for {element.name}")
    if element.type.is_integer and field.length not in (1, 2, 4, 8):
        raise ConfigError(f"{source}: {element.name}: a number takes 1, 2, 4 or 8 octets")


def _privacy_filter(privacy: Privacy) -> Callable[[Element], bool]:
    def keep(element: Element) -> bool:
        attribute = ATTRIBUTES.get(element.name)
        return not attribute or not attribute.privacy or bool(getattr(privacy, attribute.privacy))

    return keep
