"""Tests inet_diag messages with octets that a kernel (6.18) sent, and the rows made of them."""

from __future__ import annotations

import socket
import struct

import numpy as np
import pytest
from numpy.typing import NDArray

from probe.flow.codes import Mark, Role
from probe.netlink.inet_diag import (
    CLOSE,
    ESTABLISHED,
    INFO,
    LISTEN,
    SOCKET,
    STATES,
    DumpState,
    Messages,
    Sockets,
    encode_both,
    encode_family,
    find_attributes,
    index_datagram,
)
from probe.sources.netlink.counters import count_totals, find_roles
from probe.sources.netlink.ledger import Ledger, Place

#: struct tcp_info: (offset, format) of the members that tests set.
_INFO = {
    "options": (5, "B"), "unacknowledged": (24, "I"), "sent_ago": (44, "I"), "rtt": (68, "I"),
    "rtt_var": (72, "I"), "retransmitted": (100, "I"), "acknowledged": (120, "Q"),
    "received": (128, "Q"), "out": (136, "I"), "into": (140, "I"), "sent": (200, "Q"),
    "resent": (208, "Q"), "data_in": (152, "I"), "lost": (32, "I"), "pace": (104, "Q"),
    "window": (80, "I"), "delivery": (160, "Q"),
}  # fmt: skip
OLD_INFO = 144  # octets, up to tcpi_segs_in


def attribute(kind: int, payload: bytes) -> bytes:
    octets = struct.pack("=HH", 4 + len(payload), kind) + payload
    return octets.ljust((len(octets) + 3) // 4 * 4, b"\0")


def message(
    cookie: int, source: tuple[str, int], target: tuple[str, int], state: int = ESTABLISHED,
    info_size: int = 280, extra: bytes = b"", inode: int = 7, **counters: int,
) -> bytes:  # fmt: skip
    six = ":" in source[0]
    family = socket.AF_INET6 if six else socket.AF_INET
    info = bytearray(info_size)
    for name, value in counters.items():
        offset, kind = _INFO[name]
        struct.pack_into(f"={kind}", info, offset, value)
    addresses = b"".join(
        socket.inet_pton(family, address).ljust(16, b"\0") for address in (source[0], target[0])
    )
    body = struct.pack("=BBBB", family, state, 0, 0)
    body += struct.pack(">HH", source[1], target[1]) + addresses
    body += struct.pack("=IQIIIII", 0, cookie, 0, 5, 6, 1000, inode)
    body += attribute(8, b"\0") + extra
    if info_size:
        body += attribute(2, bytes(info))
    return struct.pack("=IHHII", 16 + len(body), 20, 2, 1, 0) + body


def done(error: int = 0, kind: int = 3) -> bytes:
    return struct.pack("=IHHIIi", 20, kind, 2, 1, 0, -error)


def parse(*datagrams: bytes, number: int = 1) -> tuple[Messages, DumpState]:
    words = np.frombuffer(b"".join(datagrams) + bytes(4096), np.uint32).copy()
    dump, starts, begin = DumpState(), [], 0
    for datagram in datagrams:
        end = begin + len(datagram) // 4
        starts.append(index_datagram(words, begin, end, dump))
        begin = end
    found = np.concatenate(starts)
    return find_attributes(words, found, np.full(len(found), number, np.uint32)), dump


def decode(*messages: bytes) -> Sockets:
    found, _ = parse(b"".join(messages))
    return found.decode(np.arange(len(found)))


A, B = ("10.0.0.1", 40000), ("10.0.0.2", 80)


def test_requests_are_what_the_kernel_reads() -> None:
    both, six = encode_both(INFO, STATES, 9), encode_family(10, 6, INFO, STATES, 9)
    assert len(both) == struct.unpack_from("=I", both)[0] == 76
    assert len(six) == struct.unpack_from("=I", six)[0] == 72
    assert struct.unpack_from("=HHI", both, 4) == (18, 0x301, 9)
    assert struct.unpack_from("=HHI", six, 4) == (20, 0x301, 9)
    assert (both[19], struct.unpack_from("=I", both, 68)[0]) == (INFO, STATES)
    assert six[16:19] == bytes((10, 6, INFO))
    assert struct.unpack_from("=I", six, 20)[0] == STATES
    assert STATES >> LISTEN & 1
    assert not STATES >> 6 & 1  # TIME_WAIT


def test_one_socket() -> None:
    extra = attribute(21, struct.pack("=Q", 4711)) + attribute(15, struct.pack("=I", 0))
    (row,) = decode(
        message(2**40 + 5, A, B, extra=extra, out=11, into=12, sent=2**33, rtt=300, options=7)
    )
    assert (row["cookie"], row["key"]) == (2**40 + 5, 2**40 + 5 + 2**48)
    assert bytes(row["local"]) == socket.inet_aton(A[0]) + bytes(12)
    assert (row["local_port"], row["remote_port"]) == (40000, 80)
    assert (row["ip_version"], row["state"], row["uid"], row["inode"]) == (4, 1, 1000, 7)
    assert (row["segments_out"], row["segments_in"], row["sent"]) == (11, 12, 2**33)
    assert (row["cgroup"], row["rtt_us"], row["options"], row["has_info"]) == (4711, 300, 7, 1)


def test_mapped_and_plain_ipv6() -> None:
    mapped, plain = decode(
        message(1, ("::ffff:10.0.0.1", 1), ("::ffff:10.0.0.2", 2)),
        message(2, ("fd00::1", 1), ("fd00::2", 2)),
    )
    assert mapped["ip_version"] == 4
    assert bytes(mapped["remote"]) == socket.inet_aton("10.0.0.2") + bytes(12)
    assert plain["ip_version"] == 6
    assert bytes(plain["remote"]) == socket.inet_pton(socket.AF_INET6, "fd00::2")


def test_messages_of_all_layouts_in_one_lot() -> None:
    messages = [
        message(1, A, B, out=1),
        message(2, A, B, out=2, extra=attribute(11, b"\0")),
        message(3, A, B, out=3, info_size=OLD_INFO),
        message(4, A, B, info_size=0),
        message(5, A, B, out=5, info_size=312),  # of a future kernel
    ]
    rows = decode(*messages)
    assert rows["segments_out"].tolist() == [1, 2, 3, 0, 5]
    assert rows["has_info"].tolist() == [1, 1, 1, 0, 1]
    assert rows["sent"][2] == 0
    found, _ = parse(b"".join(messages))
    assert found.segments()[0].tolist() == [1, 2, 3, 0, 5]


def test_equal_messages_take_the_short_way_to_the_same() -> None:
    many = [message(n, A, B, out=n, into=2 * n) for n in range(1, 40)]
    alone = np.concatenate([decode(one) for one in many])
    assert (decode(*many) == alone).all()
    assert (decode(*many, message(40, A, B, info_size=0))[:-1] == alone).all()


def test_the_end_of_a_dump() -> None:
    _, dump = parse(message(1, A, B), message(2, A, B) + done())
    assert (dump.done, dump.error) == (True, 0)
    _, dump = parse(done(2, kind=2))
    assert (dump.done, dump.error) == (True, 2)
    _, dump = parse(message(1, A, B))
    assert not dump.done


@pytest.mark.parametrize("cut", range(4, 400, 12))
def test_damaged_messages_end_nothing(cut: int) -> None:
    whole = message(1, A, B, out=3)
    parse(whole[: cut // 4 * 4])
    damaged = bytearray(whole)
    damaged[cut : cut + 4] = b"\xff\xff\xff\xff"
    found, _ = parse(bytes(damaged))
    found.decode(np.arange(len(found)))


def roles(listened: bool, state: int = ESTABLISHED, **counters: int) -> int:
    rows = decode(message(1, A, B, state, 280, b"", 7, **counters))
    return int(find_roles(rows, np.array([listened]))[0])


def test_roles() -> None:
    """The active opener's SYN counts in its bytes_acked.

    Otherwise the listener decides the role.
    """
    assert roles(True, sent=100, acknowledged=101) == Role.INITIATOR
    assert roles(False, sent=100, acknowledged=100) == Role.RESPONDER
    assert roles(False, sent=300, resent=100, acknowledged=201) == Role.INITIATOR
    assert roles(True, sent=100, acknowledged=50, unacknowledged=1) == Role.RESPONDER
    assert roles(False, sent=100, acknowledged=50, unacknowledged=1) == Role.INITIATOR
    assert roles(True, state=2) == Role.INITIATOR


def totals(
    role: Role, state: int = ESTABLISHED, drops: int = 0, **counters: int
) -> tuple[int, ...]:
    memory = attribute(7, struct.pack("=9I", *[0] * 8, drops))
    rows = decode(message(1, A, B, state, 280, memory, 7, **counters))
    out, into = rows["segments_out"].astype(np.int64), rows["segments_in"].astype(np.int64)
    (found,) = count_totals(rows, np.array([role], np.uint8), out, into)
    return tuple(
        int(found[name]) for name in ("tx_octets", "rx_octets", "tx_packets", "rx_packets")
    )


def test_octets_of_the_ip_layer() -> None:
    """Octets are as on the wire.

    One way has SYN 60, ACK 52 and 100 octets in 152; the other has SYN-ACK 60 and ACK 52.
    """
    opener = {"options": 7, "out": 3, "into": 2, "sent": 100, "acknowledged": 101}
    assert totals(Role.INITIATOR, **opener) == (60 + 52 + 152, 60 + 52, 3, 2)
    acceptor = {"options": 7, "out": 1, "into": 3, "received": 100}
    assert totals(Role.RESPONDER, **acceptor) == (60 + 52, 60 + 52 + 152, 2, 3)
    assert totals(Role.INITIATOR, state=2, out=2) == (120, 0, 2, 0)


def test_a_duplicate_counts_with_the_mean_of_the_others() -> None:
    acceptor = {"options": 7, "out": 1, "into": 6, "received": 300}
    once = totals(Role.RESPONDER, **acceptor, data_in=4)
    assert totals(Role.RESPONDER, **acceptor, data_in=4, drops=1)[1] == once[1] + 100
    assert totals(Role.RESPONDER, **acceptor, data_in=4, drops=4) == once  # no packet shows a size
    assert totals(Role.INITIATOR, state=CLOSE, out=1, into=1) == (60, 40, 1, 1)


class Dumps:
    """Dumps of sockets in one namespace, with their ledger."""

    def __init__(self, whole: bool = True) -> None:
        self.ledger = Ledger(1000)
        self.place = Place(1, 11, 12, whole)
        self.now = 10**12

    def dump(self, *messages: bytes) -> list[np.void]:
        self.now += 10**9
        self.ledger.begin()
        rows = []
        if messages:
            found, _ = parse(b"".join(messages))
            sockets = found.decode(self.ledger.find_changed(found))
            rows += list(self.ledger.observe(sockets, self.place, _none(sockets), self.now)[0])
        return rows + list(self.ledger.finish([1], self.now))

    def end(self, *messages: bytes) -> list[np.void]:
        sockets = decode(*messages)
        return list(self.ledger.end(sockets, self.place, _none(sockets), self.now))


def _none(sockets: Sockets) -> NDArray[np.bool_]:
    return np.zeros(len(sockets), bool)


def test_deltas_add_up_to_the_totals() -> None:
    dumps = Dumps()
    (first,) = dumps.dump(message(5, A, B, out=3, into=2, sent=100, acknowledged=101))
    assert not dumps.dump(message(5, A, B, out=3, into=2, sent=100, acknowledged=101))
    (second,) = dumps.dump(message(5, A, B, out=13, into=9, sent=1100, acknowledged=1101))
    (last,) = dumps.end(message(5, A, B, CLOSE, out=14, into=10, sent=1100, acknowledged=1102))
    assert first["id"] == second["id"] == last["id"] == 1000
    assert [int(row["tx_packets"]) for row in (first, second, last)] == [3, 10, 1]
    assert second["tx_octets"] == 1000 + 10 * 40
    assert last["mark"] & Mark.CLOSED
    assert not first["mark"] & Mark.CLOSED
    assert len(dumps.ledger) == 0


def test_sockets_older_than_the_probe_count_from_the_first_dump() -> None:
    dumps = Dumps(whole=False)
    assert not dumps.dump(message(5, A, B, out=1000, into=900, sent=5000, acknowledged=5001))
    (row,) = dumps.dump(message(5, A, B, out=1001, into=900, sent=5010, acknowledged=5001))
    assert (row["tx_packets"], row["tx_octets"], row["rx_packets"]) == (1, 50, 0)
    assert row["mark"] & Mark.PREEXISTING


def test_lost_segments_are_counted_as_they_come() -> None:
    """tcp_info has the segments that are lost now.

    The second look shows two more, the last one more.
    """
    dumps = Dumps()
    rows = [
        dumps.dump(message(5, A, B, out=out, sent=10**6, acknowledged=10**6 + 1, lost=lost))[0]
        for out, lost in ((100, 3), (110, 5), (120, 0), (130, 1))
    ]
    assert [int(row["lost"]) for row in rows] == [3, 2, 0, 1]


def test_gauges_are_those_of_the_latest_dump() -> None:
    dumps = Dumps()
    dumps.dump(message(5, A, B, out=1, unacknowledged=9, window=7, pace=7, delivery=7))
    (row,) = dumps.dump(
        message(5, A, B, out=2, unacknowledged=3, window=20, pace=2**40, delivery=2**39)
    )
    assert (row["unacknowledged"], row["congestion_window"]) == (3, 20)
    assert (row["pacing_rate"], row["delivery_rate"]) == (2**40, 2**39)
    (row,) = dumps.dump(message(5, A, B, out=3, pace=2**64 - 1))
    assert row["pacing_rate"] == 0  # no limit is set


def test_segments_beyond_32_bits() -> None:
    dumps = Dumps()
    dumps.dump(message(5, A, B, out=2**32 - 10, into=1, sent=10**13, acknowledged=10**13 + 1))
    (row,) = dumps.dump(message(5, A, B, out=5, into=1, sent=10**13, acknowledged=10**13 + 1))
    assert (row["tx_packets"], row["tx_octets"]) == (15, 15 * 40)


def test_a_socket_that_vanishes_is_closed_and_counted_once() -> None:
    dumps = Dumps()
    dumps.dump(message(5, A, B, out=3, into=2, sent=100, acknowledged=101))
    assert not dumps.dump()
    (closed,) = dumps.dump()
    assert closed["mark"] & Mark.CLOSED
    assert closed["tx_packets"] == 0
    assert dumps.ledger.lost_endings == 1
    assert not dumps.dump()
    (late,) = dumps.end(message(5, A, B, CLOSE, out=4, into=3, sent=100, acknowledged=102))
    assert (late["id"], late["tx_packets"]) == (closed["id"], 1)


def test_a_socket_that_connects_again_is_another_flow() -> None:
    dumps = Dumps()
    (first,) = dumps.dump(message(5, A, B, out=30, into=20, sent=10000, acknowledged=10001))
    closing, again = dumps.dump(message(5, A, ("10.0.0.3", 81), out=3, sent=5, acknowledged=6))
    assert closing["id"] == first["id"] != again["id"]
    assert closing["mark"] & Mark.CLOSED
    assert (again["tx_packets"], again["remote_port"]) == (3, 81)


def test_a_socket_that_is_shown_twice_counts_once() -> None:
    dumps = Dumps()
    one = message(5, A, B, out=3, into=2, sent=100, acknowledged=101)
    assert len(dumps.dump(one, one)) == 1
    assert SOCKET.itemsize % 8 == 0
