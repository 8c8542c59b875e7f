"""Tests 100 000 damaged messages of each protocol: every octet is read, or its loss is counted.

``tests.support.reader`` reads each of them strictly. What it accepts must be read the same here,
over chains of messages whose (damaged) Templates are remembered. Parts of what it refuses may be
read here, but only if the error is counted.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from probe.errors import DecodeError
from probe.ipfix import waiting
from probe.ipfix.decode import CollectingProcess
from probe.ipfix.domain import Domain
from probe.ipfix.oddity import Oddity
from probe.mapping import load_template
from tests.support.ipfix.messages import (
    message,
    options_template,
    options_template9,
    packet,
    template,
)
from tests.support.ipfix.protocols import (
    ELEMENTS,
    PROTOCOLS,
    Protocol,
    collecting_process,
    messages_of,
)
from tests.support.reader.wire import Known
from tests.support.records import NOW_S, flow_records, owner_table

MESSAGES = 100_000
_CHAIN = 250  # messages before both readers restart
_NUMBERS = (0, 1, 2, 3, 4, 5, 255, 256, 257, 300, 0x8001, 65534, 65535)
_SLOWEST_S = 1.0


def corpus(protocol: Protocol) -> list[bytes]:
    """Returns valid messages with Templates first.

    They are our exporter's, and kinds that it never sends.
    """
    found: list[bytes] = []
    for name, size in (("numeric", 700), ("full", 1400)):
        for ip_version in (4, 6):
            session = protocol.session(load_template(name, ELEMENTS), owner_table(), size)
            found += messages_of(session.messages(flow_records(8, ip_version=ip_version), NOW_S))
    return found + (_netflow9_corpus() if protocol.is_netflow9 else _ipfix_corpus())


def _ipfix_corpus() -> list[bytes]:
    text, long = b"\x03abc", b"\xff\x01\x2c" + b"y" * 300
    return [
        message((2, template(256, (8, 4), (12, 4), (1, 3)) + template(257, (371, 65535), (1, 2)))),
        message((3, options_template(300, 1, (149, 4), (82, 65535)) + b"\0\0")),
        message((256, bytes(22) + b"\0\0"), (257, text + b"\0\1" + long + b"\0\2\0")),
        message((2, template(257)), (3, template(3)), (2, template(258, (95, 1)))),
        message((300, bytes(4) + text), (256, bytes(11)), (258, b"\1\2\3")),
        message((2, template(2))),
    ]


def _netflow9_corpus() -> list[bytes]:
    return [
        packet((0, template(256, (8, 4), (12, 4), (1, 3)) + template(257, (1, 2))), count=2),
        packet((1, options_template9(300, 1, (2, 4), (82, 8)) + b"\0\0"), count=1),
        packet((256, bytes(22) + b"\0\0"), (300, b"\0\0\0\1eth0\0\0\0\0"), (257, b"\0\1\0\0")),
        packet((1, options_template9(301, 2, (1, 4), (5, 2), (40, 4)) * 2), (301, bytes(10))),
    ]


class Damage:
    """Ways to damage a message, chosen at random."""

    def __init__(self, whole: list[bytes], header: int, seed: int) -> None:
        self._whole, self._header = whole, header
        self._chance = random.Random(seed)
        self._ways: list[Callable[[bytearray], None]] = [
            self._flip, self._flip, self._overwrite, self._number, self._number, self._cut,
            self._grow, self._splice, self._splice, self._set_length,
        ]  # fmt: skip

    def message(self) -> bytes:
        """Returns a damaged message, or in one of eight cases a whole one."""
        octets = bytearray(self._chance.choice(self._whole))
        if self._chance.randrange(8):
            for _ in range(self._chance.randint(1, 3)):
                self._chance.choice(self._ways)(octets)
        if self._header == 16 and self._chance.randrange(10) and len(octets) >= 4:
            octets[2:4] = struct.pack("!H", len(octets) & 0xFFFF)  # keeps the length valid
        return bytes(octets)

    def _at(self, octets: bytearray) -> int:
        return self._chance.randrange(len(octets) + 1)

    def _flip(self, octets: bytearray) -> None:
        for _ in range(self._chance.randint(1, 8)):
            if octets:
                octets[self._chance.randrange(len(octets))] ^= 1 << self._chance.randrange(8)

    def _overwrite(self, octets: bytearray) -> None:
        at = self._at(octets)
        octets[at : at + 3] = self._chance.randbytes(3)

    def _number(self, octets: bytearray) -> None:
        at = self._at(octets) & ~1
        octets[at : at + 2] = struct.pack("!H", self._chance.choice(_NUMBERS))

    def _cut(self, octets: bytearray) -> None:
        at = self._at(octets)
        del octets[at : self._at(octets) if self._chance.randrange(2) else len(octets)]

    def _grow(self, octets: bytearray) -> None:
        at = self._at(octets) if self._chance.randrange(2) else len(octets)
        octets[at:at] = self._chance.choice((bytes, self._chance.randbytes))(
            self._chance.randint(1, 9)
        )

    def _splice(self, octets: bytearray) -> None:
        """Appends the Sets of another message."""
        octets += self._chance.choice(self._whole)[self._header :]

    def _set_length(self, octets: bytearray) -> None:
        if len(octets) > self._header + 4:
            at = self._header + 2
            (length,) = struct.unpack_from("!H", octets, at)
            changed = max(0, length + self._chance.randint(-9, 9)) & 0xFFFF
            octets[at : at + 2] = struct.pack("!H", changed)


def counts(process: CollectingProcess) -> tuple[int, int, int, int]:
    found = process.statistics
    return found.records, found.option_records, found.template_records, found.unknown_sets


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: str(one.name))
def test_damaged_messages(protocol: Protocol, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MOST_OCTETS", 0)  # the strict reader keeps no data waiting
    whole = corpus(protocol)
    damage = Damage(whole, 20 if protocol.is_netflow9 else 16, seed=20260102)
    accepted = refused = read = 0
    for number in range(MESSAGES):
        if number % _CHAIN == 0:
            both = Both(whole, is_reliable=number // _CHAIN % 2 == 1)
        octets = damage.message()
        valid, records = both.take(octets)
        accepted, refused = accepted + valid, refused + (not valid)
        read += bool(records and not valid)
    assert min(accepted, refused) > MESSAGES // 5, "neither all good nor all bad"
    assert read > MESSAGES // 20, "much of what is not valid can be read"


class Both:
    """Our reader and the strict one, with the same Templates."""

    def __init__(self, whole: list[bytes], is_reliable: bool) -> None:
        self.process, self.known = collecting_process(), Known(is_reliable)
        self._is_reliable = is_reliable
        for octets in whole:
            self.process.decode(octets, "peer", is_reliable)
            self.known.read(octets)

    def take(self, octets: bytes) -> tuple[bool, int]:
        """Returns whether the message is valid, and how many records were read."""
        counted = self.process.statistics
        before, odd_before = counts(self.process), counted.oddities.total()
        domains = self._copy()
        started = time.process_time()
        try:
            decoded = self.process.decode_message(octets, "peer", self._is_reliable)
        except DecodeError:
            assert self.known.read(octets).broken, octets.hex()
            assert counts(self.process) == before, octets.hex()
            return False, 0
        assert time.process_time() - started < _SLOWEST_S, octets.hex()
        changes = tuple(new - old for new, old in zip(counts(self.process), before, strict=True))
        assert (len(decoded.flows), len(decoded.options)) == changes[:2]
        read = self.known.read(octets)
        if read.broken is not None:
            assert counted.oddities.total() > odd_before, octets.hex()
            self._restore(domains)  # the strict reader remembers none of it
            return False, changes[0] + changes[1]
        records = read.record_count(False), read.record_count(True)
        expected = *records, read.template_count, read.unknown_sets
        assert changes == expected, octets.hex()
        assert not decoded.losses, octets.hex()
        return True, changes[0] + changes[1]

    def _copy(self) -> dict[Any, Domain]:
        return {
            key: replace(one, templates=dict(one.templates), types=dict(one.types))
            for key, one in self.process._domains.items()
        }

    def _restore(self, domains: dict[Any, Domain]) -> None:
        self.process._domains = domains
        self.process._weight = sum(one.weight for one in domains.values())


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: str(one.name))
def test_a_message_is_whole_or_told_of(protocol: Protocol) -> None:
    """A message is refused if it is cut within a Set, or if an octet follows it."""
    header = 20 if protocol.is_netflow9 else 16
    for octets in corpus(protocol):
        accepted = {end for end in range(len(octets) + 1) if is_accepted(octets[:end], header)}
        assert accepted == set_ends(octets, header)
        assert not is_accepted(octets + b"\1", header)
        assert not is_accepted(octets + b"\0", header)


def is_accepted(octets: bytes, header: int) -> bool:
    if header == 16 and len(octets) >= 4:
        octets = octets[:2] + struct.pack("!H", len(octets)) + octets[4:]
    process = collecting_process()
    try:
        process.decode(octets, "peer")
    except DecodeError:
        return False
    harmless = {Oddity.COUNT, Oddity.COUNT_OF_SETS}
    return not set(process.statistics.oddities) - harmless


def set_ends(octets: bytes, at: int) -> set[int]:
    found = {at}
    while at < len(octets):
        at += int.from_bytes(octets[at + 2 : at + 4], "big")
        found.add(at)
    return found
