"""A second reader of messages, written from RFC 7011 and RFC 3954: it accounts for every octet.

It shares no code with ``probe``, knows no element and makes no value: what it says of a message is
how many records are in it, or ``Unaccounted``. State is kept per protocol and domain, of one peer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

VARIABLE = 65535


class Unaccounted(Exception):
    """There are octets that belong to nothing, or less than what was announced."""


@dataclass
class Layout:
    """Lengths of the fields of a Template; ``identity`` is all that it says."""

    lengths: list[int]
    is_options: bool
    identity: bytes = b""

    @property
    def shortest(self) -> int:
        return sum(1 if length == VARIABLE else length for length in self.lengths)


@dataclass
class Walked:
    """What is in a message: the header's numbers, and records by kind."""

    domain: int
    sequence: int
    count: int | None
    sets: int = 0
    found: Counter[str] = field(default_factory=Counter)


class Walker:
    def __init__(self, is_reliable: bool = False) -> None:
        self.layouts: dict[tuple[int, int], dict[int, Layout]] = {}
        self._is_reliable = is_reliable

    def walk(self, octets: bytes) -> Walked:
        """Unaccounted: then nothing of the message is remembered."""
        version = _number(octets, 0, 2)
        if version == 10:
            at, walked = 16, Walked(_number(octets, 12), _number(octets, 8), None)
            if _number(octets, 2, 2) != len(octets):
                raise Unaccounted
        elif version == 9:
            at = 20
            walked = Walked(_number(octets, 16), _number(octets, 12), _number(octets, 2, 2))
        else:
            raise Unaccounted
        layouts = dict(self.layouts.get((version, walked.domain), {}))
        while at < len(octets):
            number, length = _number(octets, at, 2), _number(octets, at + 2, 2)
            if length < 4 or at + length > len(octets):
                raise Unaccounted
            self._walk_set(version, layouts, number, octets[at + 4 : at + length], walked)
            walked.sets += 1
            at += length
        self.layouts[version, walked.domain] = layouts
        return walked

    def _walk_set(
        self, version: int, layouts: dict[int, Layout], number: int, body: bytes, walked: Walked
    ) -> None:
        kinds = (2, 3) if version == 10 else (0, 1)
        if number in kinds:
            self._walk_templates(version, layouts, body, number == kinds[1], walked)
        elif number < 256:
            raise Unaccounted
        elif number not in layouts:
            walked.found["unknown"] += 1
        else:
            layout = layouts[number]
            kind = "options" if layout.is_options else "flows"
            walked.found[kind] += _walk_records(layout, body)

    def _walk_templates(
        self, version: int, layouts: dict[int, Layout], body: bytes, options: bool, walked: Walked
    ) -> None:
        at = 0
        while at < len(body):
            if len(body) - at < (10 if options else 8) and not any(body[at:]):
                return
            walked.found["templates"] += 1
            number, count = _number(body, at, 2), _number(body, at + 2, 2)
            if version == 10 and not count:
                at += 4
                self._withdraw(layouts, number, options)
                continue
            if number < 256:
                raise Unaccounted
            start, at = at, at + (6 if options else 4)
            if version == 9 and options:
                scope, rest = count, _number(body, start + 4, 2)
                if scope % 4 or rest % 4:
                    raise Unaccounted
                count = (scope + rest) // 4
            elif options and not 0 < _number(body, start + 4, 2) <= count:
                raise Unaccounted
            lengths = []
            for _ in range(count):
                lengths.append(_number(body, at + 2, 2))
                has_enterprise = version == 10 and _number(body, at, 2) & 0x8000
                at += 8 if has_enterprise else 4
                if at > len(body):
                    raise Unaccounted
            if not lengths or 0 in lengths or (version == 9 and VARIABLE in lengths):
                raise Unaccounted
            layouts[number] = Layout(lengths, options, body[start:at])

    def _withdraw(self, layouts: dict[int, Layout], number: int, options: bool) -> None:
        everything = number == (3 if options else 2)
        if number < 256 and not everything:
            raise Unaccounted
        for known in list(layouts) if self._is_reliable else ():
            if layouts[known].is_options == options and (everything or known == number):
                del layouts[known]


def _walk_records(layout: Layout, body: bytes) -> int:
    at = count = 0
    while len(body) - at >= layout.shortest:
        for length in layout.lengths:
            if length == VARIABLE:
                length, at = _number(body, at, 1), at + 1
                if length == 255:
                    length, at = _number(body, at, 2), at + 2
            at += length
        if at > len(body):
            raise Unaccounted
        count += 1
    if any(body[at:]):
        raise Unaccounted
    return count


def _number(octets: bytes, at: int, size: int = 4) -> int:
    if at + size > len(octets):
        raise Unaccounted
    return int.from_bytes(octets[at : at + size], "big")
