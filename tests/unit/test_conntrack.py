"""Tests ctnetlink messages against octets that a kernel (6.18) accepted and sent."""

from __future__ import annotations

import errno
import socket
import struct
from pathlib import Path

import numpy as np
import pytest

from probe.netlink import conntrack
from probe.netlink.conntrack import (
    ANSWER,
    TUPLE,
    Conntrack,
    Tuples,
    decode_answers,
    encode_requests,
)

#: UDP from 127.0.0.1:40100 to 127.0.0.2:100, translated to 127.0.0.9 and 127.0.0.5, sequence 3.
ANSWERED = bytes.fromhex(
    "a400000000010200030000001d440000020000003400018014000180080001007f000001080002007f000002"
    "1c0002800500010011000000060002009ca4000006000300006400003400028014000180080001007f000005"
    "080002007f0000091c00028005000100110000000600020000640000060003009ca4000008000300000001b8"
    "080008000000000008000c0021634bca08000b0000000002080007000000001d"
)
ABSENT = bytes.fromhex("2400000002000001030000001d440000feffffff48000000010101000300000000000000")
#: The attribute of nft's zone 7: CTA_ZONE follows the tuples.
ZONE = bytes.fromhex("0800120000000007")


def tuples(*values: tuple[str, int, str, int, int]) -> Tuples:
    made = np.zeros(len(values), TUPLE)
    for row, (source, source_port, destination, destination_port, protocol) in zip(
        made, values, strict=True
    ):
        for side, address in (("source", source), ("destination", destination)):
            row[side] = np.frombuffer(socket.inet_aton(address), "u4")[0]
        row["source_port"], row["destination_port"] = source_port, destination_port
        row["protocol"] = protocol
    return made


ORIGINAL = tuples(("127.0.0.1", 40100, "127.0.0.2", 100, 17))
REPLY = tuples(("127.0.0.5", 100, "127.0.0.9", 40100, 17))


def answers(*datagrams: bytes) -> np.ndarray:
    size = ANSWER.itemsize
    return np.frombuffer(b"".join(one[:size].ljust(size, b"\xaa") for one in datagrams), ANSWER)


def with_sequence(datagram: bytes, sequence: int) -> bytes:
    return datagram[:8] + struct.pack("=I", sequence) + datagram[12:]


def test_a_request_is_what_the_kernel_took() -> None:
    """A request has the length, type and flags that the kernel accepts, and its form of a tuple."""
    request = encode_requests(ORIGINAL, 3)
    assert request[:20] == struct.pack("=IHHIIBBH", 72, 0x101, 1, 3, 0, 2, 0, 0)
    assert request[20:] == ANSWERED[20:72]


def test_requests_are_numbered() -> None:
    requests = encode_requests(np.repeat(ORIGINAL, 3), 2**32 - 1)
    numbers = [struct.unpack_from("=I", requests, 72 * at + 8)[0] for at in range(3)]
    assert numbers == [2**32 - 1, 0, 1]
    assert len(requests) == 3 * 72


def test_an_answer_has_both_directions() -> None:
    found, unread, error = decode_answers(answers(ANSWERED), 3, 1)
    assert found.found.tolist() == [True]
    assert found.original.tolist() == ORIGINAL.tolist()
    assert found.reply.tolist() == REPLY.tolist()
    assert (unread, error) == (0, 0)


def test_answers_find_their_request() -> None:
    """Answers come out of order, one is missing, and the sequence numbers wrap."""
    given = answers(
        with_sequence(ABSENT, 1), with_sequence(ANSWERED, 0), with_sequence(ABSENT, 2**32 - 1)
    )
    found, unread, error = decode_answers(given, 2**32 - 1, 4)
    assert found.found.tolist() == [False, True, False, False]
    assert found.reply[1] == REPLY[0]
    assert (unread, error) == (0, 0)


def test_an_answer_to_something_else_is_left_alone() -> None:
    found, unread, _ = decode_answers(answers(with_sequence(ANSWERED, 2)), 3, 2)
    assert not found.found.any()
    assert unread == 0


def test_attributes_behind_the_tuples_do_not_matter() -> None:
    in_zone = bytearray(ANSWERED[:124] + ZONE + ANSWERED[124:])
    struct.pack_into("=I", in_zone, 0, len(in_zone))
    found, unread, _ = decode_answers(answers(bytes(in_zone)), 3, 1)
    assert found.reply.tolist() == REPLY.tolist()
    assert unread == 0


@pytest.mark.parametrize("at", [4, 20, 22, 24, 28, 36, 44, 48, 56, 64, 72, 74, 76, 100, 116])
def test_another_layout_is_not_misread(at: int) -> None:
    """An answer with an attribute header at an unexpected place is counted as unread."""
    broken = bytearray(ANSWERED)
    broken[at] ^= 0x04
    found, unread, error = decode_answers(answers(bytes(broken)), 3, 1)
    assert not found.found.any()
    assert (unread, error) == (1, 0)


def test_an_answer_that_ends_early_is_not_misread() -> None:
    short = struct.pack("=I", 120) + ANSWERED[4:]
    found, unread, _ = decode_answers(answers(short), 3, 1)
    assert not found.found.any()
    assert unread == 1


def test_a_refusal_is_told() -> None:
    refused = ABSENT[:16] + struct.pack("=i", -errno.EPERM) + ABSENT[20:]
    _, unread, error = decode_answers(answers(refused), 3, 1)
    assert (unread, error) == (1, errno.EPERM)


class FakeSocket:
    """A socket that gives what ``given`` holds: octets, or an error number to fail with."""

    def __init__(self, *given: bytes | int) -> None:
        self._given = list(given)
        self.sent: list[bytes] = []

    def send(self, octets: bytes) -> None:
        self.sent.append(octets)

    def recv(self, size: int) -> bytes:
        if not self._given:
            raise BlockingIOError(errno.EAGAIN, "nothing waits")
        if isinstance(answer := self._given.pop(0), int):
            raise OSError(answer, "told to")
        return answer[:size]

    def recv_into(self, buffer: memoryview, size: int) -> int:
        answer = self.recv(size)
        buffer[: len(answer)] = answer
        return len(answer)

    def bind(self, address: object) -> None:
        pass

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def setsockopt(self, *option: int) -> None:
        pass

    def close(self) -> None:
        pass


def opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *given: bytes | int
) -> tuple[Conntrack, FakeSocket]:
    fake, tracked = FakeSocket(*given), Conntrack()
    monkeypatch.setattr(conntrack, "_LOADED", tmp_path)
    monkeypatch.setattr("socket.socket", lambda *kind: fake)
    assert tracked.open()
    return tracked, fake


def test_answers_that_did_not_fit_are_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two of four answers come. The kernel reports the overflow first, then nothing more waits."""
    given = (errno.ENOBUFS, with_sequence(ABSENT, 1), with_sequence(ANSWERED, 4))
    tracked, fake = opened(monkeypatch, tmp_path, *given)
    found = tracked.look_up(np.repeat(ORIGINAL, 4))
    assert found.found.tolist() == [False, False, False, True]
    assert tracked.unread == 2
    assert [len(sent) for sent in fake.sent] == [4 * 72]


def test_another_error_is_the_callers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tracked, _ = opened(monkeypatch, tmp_path, errno.EIO)
    with pytest.raises(OSError, match="told to"):
        tracked.look_up(ORIGINAL)


def test_the_number_of_connections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel's answer is read; a late answer of an earlier look-up is ignored."""
    answer = bytes.fromhex(
        "2400000005010200090000001d4400000000000008000100000027100800020000040000"
    )
    late = with_sequence(ABSENT, 77)
    tracked, _ = opened(monkeypatch, tmp_path, late, with_sequence(answer, 1))
    assert tracked.read_count() == 10_000


def test_no_count_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refused = with_sequence(ABSENT[:16] + struct.pack("=i", -errno.EPERM) + ABSENT[20:], 1)
    tracked, _ = opened(monkeypatch, tmp_path, refused)
    with pytest.raises(PermissionError):
        tracked.read_count()
    with pytest.raises(BlockingIOError):
        tracked.read_count()


def test_nothing_is_loaded_by_looking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without connection tracking no socket is made, because it would load the kernel's modules."""
    made: list[object] = []
    monkeypatch.setattr(conntrack, "_LOADED", tmp_path / "absent")
    monkeypatch.setattr("socket.socket", lambda *kind: made.append(kind))
    assert not Conntrack().open()
    assert not made
