"""Tests with which sequence number a file of messages continues."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import pytest

from probe.export.transports.contents import next_sequence, read_contents
from probe.mapping import load_profiles
from tests.support.ipfix.profiles import ProfileSession

_DOMAIN = 3  # the domain of ProfileSession


@pytest.fixture
def file(tmp_path: Path) -> Iterator[BinaryIO]:
    with (tmp_path / "flows.ipfix").open("w+b", buffering=0) as found:
        yield found


def sequence_of(message: bytes) -> int:
    number: int = struct.unpack_from("!I", message, 8)[0]
    return number


def test_an_empty_file_begins_at_0(file: BinaryIO) -> None:
    found = read_contents(file.fileno())
    assert (found.end, next_sequence(file.fileno(), found, _DOMAIN)) == (0, 0)


@pytest.mark.parametrize("profile", load_profiles())
def test_after_each_message_comes_the_number_of_the_next(file: BinaryIO, profile: str) -> None:
    """The messages hold Templates, options, and records of fixed and of variable length."""
    session = ProfileSession(profile, max_message=700)
    messages = list(session.messages(session.records(60)))
    assert len({sequence_of(message) for message in messages}) > 4
    for message, following in pairwise(messages):
        file.write(message)
        found = read_contents(file.fileno())
        assert next_sequence(file.fileno(), found, _DOMAIN) == sequence_of(following)
        assert next_sequence(file.fileno(), found, _DOMAIN + 1) == 0


def test_records_without_their_template_say_nothing(file: BinaryIO) -> None:
    session = ProfileSession("iana")
    file.write(list(session.messages(session.records(60)))[-1])
    found = read_contents(file.fileno())
    assert next_sequence(file.fileno(), found, _DOMAIN) == 0


def test_the_sequence_wraps(file: BinaryIO) -> None:
    template = struct.pack("!HHHHHH", 2, 12, 256, 1, 4, 1)
    records = struct.pack("!HH5s", 256, 9, b"12345")
    for body, sequence in ((template, 0xFFFFFFFD), (records, 0xFFFFFFFD)):
        file.write(struct.pack("!HHIII", 10, 16 + len(body), 0, sequence, _DOMAIN) + body)
    found = read_contents(file.fileno())
    assert next_sequence(file.fileno(), found, _DOMAIN) == 2
