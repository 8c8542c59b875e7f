"""Encodes and decodes inet_diag messages (include/uapi/linux/inet_diag.h) as arrays.

Does no I/O. Messages stay in the receive buffer. Keys and counters of all of them are gathered word
by word, and only messages with news are decoded into SOCKET rows. This takes some tenths of a
microsecond for each message, and pyroute2 some 60 us.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.netlink import wire

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
Positions = NDArray[np.int64]
Sockets = NDArray[np.void]
Place = int | tuple[int, int]

AF_INET, AF_INET6 = 2, 10
TCP, UDP = 6, 17
#: States of include/net/tcp_states.h.
ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, TIME_WAIT = 1, 2, 3, 4, 5, 6
CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING, NEW_SYN_RECV = 7, 8, 9, 10, 11, 12
#: All states but those that have no full socket, and so no counters.
STATES = 0xFFE & ~(1 << TIME_WAIT | 1 << NEW_SYN_RECV)
#: Bits of inet_diag_req_v2.idiag_ext.
INFO, SOCKET_MEMORY = 1 << 1, 1 << 6

# include/uapi/linux/sock_diag.h, inet_diag.h
_BOTH_FAMILIES, _BY_FAMILY = 18, 20  # TCPDIAG_GETSOCK, SOCK_DIAG_BY_FAMILY
_NEVER = 0xFFFFFFFF
_FIRST_ATTRIBUTE = 22  # words: struct nlmsghdr, struct inet_diag_msg
_ATTRIBUTE_INFO, _ATTRIBUTE_MEMORY, _ATTRIBUTE_CGROUP = 2, 7, 21
_MOST_ATTRIBUTES = 24
_INFO_WORDS = 58  # of struct tcp_info, up to tcpi_snd_wnd; older kernels have fewer
_LEAST_INFO_WORDS = 36  # up to tcpi_segs_in (Linux 4.2)
_MEMORY_WORDS = 9
_COOKIE = 15

#: Columns by place and number of words (1 if not given), from the message's beginning.
_MESSAGE: dict[str, Place] = {
    "header": 4, "ports": 5, "local": (6, 4), "remote": (10, 4), "interface": 14,
    "cookie": (_COOKIE, 2), "receive_queue": 18, "send_queue": 19, "uid": 20, "inode": 21,
}  # fmt: skip
#: The same, from the beginning of struct tcp_info.
_TCP_INFO: dict[str, Place] = {
    "flags": 1, "unacknowledged": 6, "lost": 8, "sent_ago_ms": 11, "data_received_ago_ms": 13,
    "received_ago_ms": 14, "rtt_us": 17, "rtt_var_us": 18, "window": 20, "retransmitted": 25,
    "pacing_rate": (26, 2), "acknowledged": (30, 2), "received": (32, 2), "segments_out": 34,
    "segments_in": 35, "data_segments_in": 38, "data_segments_out": 39, "delivery_rate": (40, 2),
    "sent": (50, 2), "resent": (52, 2), "out_of_order": 56,
}  # fmt: skip
#: The same, from the beginning of INET_DIAG_SKMEMINFO.
_MEMORY: dict[str, Place] = {"receive_memory": 0, "send_memory": 2, "drops": 8}

#: A socket. Addresses are as in flow rows, and ports in the host's order. ``key`` is unique among
#: all namespaces. ``has_info`` is 1 if the counters of struct tcp_info are present.
SOCKET = np.dtype(
    [
        ("key", "u8"), ("cookie", "u8"), ("cgroup", "u8"), ("pacing_rate", "u8"),
        ("acknowledged", "u8"), ("received", "u8"), ("delivery_rate", "u8"), ("sent", "u8"),
        ("resent", "u8"), ("local", "u4", 4), ("remote", "u4", 4), ("namespace", "u4"),
        ("interface", "u4"), ("receive_queue", "u4"), ("send_queue", "u4"), ("uid", "u4"),
        ("inode", "u4"), ("unacknowledged", "u4"), ("lost", "u4"), ("sent_ago_ms", "u4"),
        ("data_received_ago_ms", "u4"), ("received_ago_ms", "u4"), ("rtt_us", "u4"),
        ("rtt_var_us", "u4"), ("window", "u4"), ("retransmitted", "u4"), ("segments_out", "u4"),
        ("segments_in", "u4"), ("data_segments_in", "u4"), ("data_segments_out", "u4"),
        ("out_of_order", "u4"), ("receive_memory", "u4"), ("send_memory", "u4"), ("drops", "u4"),
        ("local_port", "u2"), ("remote_port", "u2"), ("ip_version", "u1"), ("state", "u1"),
        ("options", "u1"), ("has_info", "u1"), ("pad", "u1", 4),
    ]
)  # fmt: skip


def encode_both(extensions: int, states: int, sequence: int) -> bytes:
    """Requests a dump of TCP over IPv4 and IPv6, in one walk through the kernel's tables."""
    body = struct.pack("=4B48x2I", AF_INET, 0, 0, extensions, states, 0)
    return wire.encode_message(_BOTH_FAMILIES, wire.F_DUMP, sequence, body)


def encode_family(family: int, protocol: int, extensions: int, states: int, sequence: int) -> bytes:
    """Requests a dump of one protocol over one version of IP."""
    body = struct.pack("=4BI48x", family, protocol, extensions, 0, states)
    return wire.encode_message(_BY_FAMILY, wire.F_DUMP, sequence, body)


class DumpState:
    """The state of one dump, from its datagrams so far."""

    def __init__(self) -> None:
        self.done = False
        self.error = 0
        self.interrupted = False


def index_datagram(words: U32, begin: int, end: int, dump: DumpState) -> Positions:
    """Returns where messages about sockets begin in the datagram ``words[begin:end]``."""
    if end - begin >= _FIRST_ATTRIBUTE and _holds_equal(words, begin, end):
        dump.interrupted |= bool(int(words[begin + 1]) >> 16 & wire.F_DUMP_INTERRUPTED)
        return np.arange(begin, end, int(words[begin]) // 4)
    found: list[int] = []
    while end - begin >= 4:
        length, kind = int(words[begin]), int(words[begin + 1])
        dump.interrupted |= bool(kind >> 16 & wire.F_DUMP_INTERRUPTED)
        kind &= 0xFFFF
        if length < 16 or length > 4 * (end - begin):
            break
        if kind in (_BOTH_FAMILIES, _BY_FAMILY) and length >= 4 * _FIRST_ATTRIBUTE:
            found.append(begin)
        elif kind in (wire.DONE, wire.ERROR):
            dump.done = True
            dump.error = -int(words[begin + 4].astype(np.int32)) if length >= 20 else 0
        begin += (length + 3) // 4
    return np.array(found, np.int64)


def _holds_equal(words: U32, begin: int, end: int) -> bool:
    """Returns True if all messages have one length, as in nearly all datagrams of a dump."""
    length, kind = int(words[begin]), int(words[begin + 1])
    step = length // 4
    if length % 4 or step < _FIRST_ATTRIBUTE or (end - begin) % step:
        return False
    if kind & 0xFFFF not in (_BOTH_FAMILIES, _BY_FAMILY):
        return False
    return bool(
        (words[begin:end:step] == length).all() and (words[begin + 1 : end : step] == kind).all()
    )


@dataclass(slots=True)
class Messages:
    """Messages in ``words``: where each begins, and where its attributes' payloads begin (or 0)."""

    words: U32
    starts: Positions
    namespaces: U32
    info: Positions
    info_words: Positions
    memory: Positions
    cgroup: Positions

    def __len__(self) -> int:
        return len(self.starts)

    def states(self) -> U32:
        return self.words[self.starts + 4] >> np.uint32(8) & np.uint32(0xFF)

    def keys(self) -> U64:
        """Returns namespace number and cookie in one number.

        Before Linux 5.3, cookies are unique within a namespace only.
        """
        cookie = self._pair(self.starts + _COOKIE)
        return cookie | self.namespaces.astype(np.uint64) << np.uint64(48)

    def segments(self) -> tuple[U32, U32]:
        """Returns the segments sent and received, 0 for messages without counters."""
        place = np.where(self.info_words >= _LEAST_INFO_WORDS, self.info, 0)
        known = place > 0
        out, into = self.words[place + 34], self.words[place + 35]
        return out * known, into * known

    def decode(self, which: NDArray[np.intp]) -> Sockets:
        """Returns SOCKET rows of the messages ``which``."""
        sockets: Sockets = np.zeros(len(which), SOCKET)
        if not len(which):
            return sockets
        starts = self.starts[which]
        sockets["namespace"] = self.namespaces[which]
        sockets["key"] = self.keys()[which]
        self._gather(sockets, _MESSAGE, starts, np.full(len(which), _NEVER, np.int64))
        enough = self.info_words[which] >= _LEAST_INFO_WORDS
        self._gather(
            sockets, _TCP_INFO, self.info[which], np.where(enough, self.info_words[which], 0)
        )
        sockets["has_info"] = enough
        present = np.where(self.memory[which] > 0, _MEMORY_WORDS, 0)
        self._gather(sockets, _MEMORY, self.memory[which], present)
        self._gather(sockets, {"cgroup": (0, 2)}, self.cgroup[which],
                     np.where(self.cgroup[which] > 0, 2, 0))  # fmt: skip
        return _with_plain_addresses(sockets)

    def _gather(
        self,
        sockets: Sockets,
        columns: Mapping[str, Place],
        places: Positions,
        present: Positions,
    ) -> None:
        for name, place in columns.items():
            at, count = place if isinstance(place, tuple) else (place, 1)
            known = present >= at + count
            where = np.where(known, places + at, 0)
            if name in ("header", "ports", "flags"):
                _split(sockets, name, self.words[where] * known)
            elif name in ("local", "remote"):
                for word in range(count):
                    sockets[name][:, word] = self.words[where + word]
            elif count == 2:
                sockets[name] = self._pair(where) * known
            else:
                sockets[name] = self.words[where] * known

    def _pair(self, where: Positions) -> U64:
        """Returns 64 bits of two words of a little-endian host, as the kernel half requires."""
        pair: U64 = self.words[where] | self.words[where + 1].astype(np.uint64) << np.uint64(32)
        return pair


def find_attributes(words: U32, starts: Positions, namespaces: U32) -> Messages:
    """Walks the attributes of all messages side by side; ``namespaces`` has their numbers."""
    found = {kind: np.zeros(len(starts), np.int64)
             for kind in (_ATTRIBUTE_INFO, _ATTRIBUTE_MEMORY, _ATTRIBUTE_CGROUP)}  # fmt: skip
    info_words = np.zeros(len(starts), np.int64)
    if len(starts) and (layout := _common_layout(words, starts)) is not None:
        for number in found.keys() & layout.keys():
            place, octets = layout[number]
            found[number] = starts + place + 1
            if number == _ATTRIBUTE_INFO:
                info_words[:] = octets // 4 - 1
        return Messages(words, starts, namespaces, found[_ATTRIBUTE_INFO], info_words,
                        found[_ATTRIBUTE_MEMORY], found[_ATTRIBUTE_CGROUP])  # fmt: skip
    ends = starts + words[starts].astype(np.int64) // 4
    at, who = starts + _FIRST_ATTRIBUTE, np.arange(len(starts))
    for _ in range(_MOST_ATTRIBUTES):
        inside = at < ends[who]
        if not inside.all():
            at, who = at[inside], who[inside]
        if not len(who):
            break
        header = words[at]
        length = (header & np.uint32(0xFFFF)).astype(np.int64)
        kind = header >> np.uint32(16)
        fits = (length >= 4) & (at + length // 4 <= ends[who])
        for number, places in found.items():
            hits = np.flatnonzero((kind == number) & fits)
            places[who[hits]] = at[hits] + 1
            if number == _ATTRIBUTE_INFO:
                info_words[who[hits]] = length[hits] // 4 - 1
        at = np.where(fits, at + (length + 3) // 4, np.iinfo(np.int64).max)
    return Messages(words, starts, namespaces, found[_ATTRIBUTE_INFO], info_words,
                    found[_ATTRIBUTE_MEMORY], found[_ATTRIBUTE_CGROUP])  # fmt: skip


def _common_layout(words: U32, starts: Positions) -> dict[int, tuple[int, int]] | None:
    """Returns attribute -> (place in words, length) if all messages are built like the first.

    Otherwise it returns None. Nearly all lots of a dump have one layout, and take a third of the
    time.
    """
    end = int(words[starts[0]]) // 4
    same = words[starts] == words[starts[0]]
    layout: dict[int, tuple[int, int]] = {}
    at = _FIRST_ATTRIBUTE
    while at < end:
        header = int(words[starts[0] + at])
        length = header & 0xFFFF
        if length < 4 or at + length // 4 > end:
            return None
        same &= words[starts + at] == header
        layout[header >> 16] = (at, length)
        at += (length + 3) // 4
    return layout if same.all() else None


def _split(sockets: Sockets, name: str, words: U32) -> None:
    octets = words.view(np.uint8).reshape(-1, 4)
    if name == "header":  # family, state, timer, retransmissions
        sockets["ip_version"] = np.where(octets[:, 0] == AF_INET6, 6, 4)
        sockets["state"] = octets[:, 1]
    elif name == "flags":  # backoff, options, window scales, ...
        sockets["options"] = octets[:, 1]
    else:
        ports = words.view(">u2").reshape(-1, 2)
        sockets["local_port"], sockets["remote_port"] = ports[:, 0], ports[:, 1]


def _with_plain_addresses(sockets: Sockets) -> Sockets:
    """Turns IPv4 over an IPv6 socket into IPv4, with its address in the first word."""
    mapped = np.array([0, 0, int.from_bytes(b"\0\0\xff\xff", "little")], np.uint32)
    six = sockets["ip_version"] == 6
    four = six & (sockets["remote"][:, :3] == mapped).all(axis=1)
    for side in ("local", "remote"):
        address = sockets[side]
        address[four, 0] = address[four, 3]
        address[~six | four, 1:] = 0
    sockets["ip_version"][four] = 4
    return sockets
