"""Looks up single connections in the kernel's connection tracking (ctnetlink).

The probe asks by tuple, because a dump walks the whole hash table. That takes 10 ms for an empty
table of the usual size, and 1.7 us for each of thousands of entries in TIME_WAIT. A look-up takes
2.7 us (not tracked) to 4.4 us. The probe subscribes to no events, so connections that it does not
ask for cost the kernel nothing.

Messages are arrays with fixed offsets, because pyroute2 takes some 100 us for each. They cover TCP
and UDP over IPv4, in the default zone of the network namespace in which the socket was opened.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.netlink import wire

Tuples = NDArray[np.void]
Flags = NDArray[np.bool_]
Positions = NDArray[np.intp]

#: One direction of a connection. Addresses in network order, ports in the host's.
TUPLE = np.dtype(
    [
        ("source", "u4"),
        ("destination", "u4"),
        ("source_port", "u2"),
        ("destination_port", "u2"),
        ("protocol", "u4"),
    ]
)

#: Exists if nf_conntrack is loaded. A request without this check would load it.
_LOADED = Path("/proc/sys/net/netfilter/nf_conntrack_count")

# include/uapi/linux/nfnetlink.h, nfnetlink_conntrack.h
_NETLINK_NETFILTER = 12
_CONNECTION, _GET_CONNECTION, _GET_STATISTICS = 0x100, 0x101, 0x105
_FAMILY = struct.Struct("=BBH")  # struct nfgenmsg
_LOT = 64  # requests in one message: answers to 256 still fit a receive buffer of default size

# CTA_TUPLE_ORIG or _REPLY as the kernel writes it for TCP and UDP over IPv4: 13 words of which
# these are attribute headers (place: length, type).
_TUPLE_WORDS = 13
_INNER = {
    1: (20, wire.NESTED | 1), 2: (8, 1), 4: (8, 2),  # CTA_TUPLE_IP: source, destination
    6: (28, wire.NESTED | 2), 7: (5, 1), 9: (6, 2), 11: (6, 3),  # CTA_TUPLE_PROTO: number, ports
}  # fmt: skip
_WIRE_TUPLE = np.dtype(
    {
        "names": ["source", "destination", "protocol", "source_port", "destination_port"],
        "formats": ["u4", "u4", "u1", ">u2", ">u2"],
        "offsets": [12, 20, 32, 40, 48],
        "itemsize": 4 * _TUPLE_WORDS,
    }
)
_FIELDS: dict[str, tuple[Any, int]] = {
    "length": ("u4", 0),
    "type": ("u2", 4),
    "flags": ("u2", 6),
    "sequence": ("u4", 8),
    "family": ("u1", 16),
    "error": ("i4", 16),  # of NLMSG_ERROR, instead of struct nfgenmsg
    "original": (_WIRE_TUPLE, 20),
    "reply": (_WIRE_TUPLE, 72),
}


def _layout(names: tuple[str, ...], size: int) -> np.dtype[np.void]:
    formats, offsets = zip(*(_FIELDS[name] for name in names), strict=True)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


_REQUEST = _layout(("length", "type", "flags", "sequence", "family", "original"), 72)
#: The beginning of an answer; what follows (status, timeout, marks, ...) is cut off.
ANSWER = _layout(("length", "type", "sequence", "error", "original", "reply"), 128)
_ANSWER_OCTETS = 124


def _tuple_template(outer: int) -> NDArray[np.uint32]:
    words = np.zeros(_TUPLE_WORDS, np.uint32)
    for place, header in {0: (4 * _TUPLE_WORDS, wire.NESTED | outer), **_INNER}.items():
        words[place] = np.array(header, np.uint16).view(np.uint32)[0]
    return words


_ORIGINAL, _REPLY = _tuple_template(1), _tuple_template(2)
_HEADER_PLACES = [0, *_INNER]


@dataclass(slots=True)
class Entries:
    """The results, one row for each tuple asked for; ``original`` and ``reply`` are TUPLEs."""

    found: Flags
    original: Tuples
    reply: Tuples

    @classmethod
    def none(cls, count: int) -> Entries:
        return cls(np.zeros(count, bool), np.zeros(count, TUPLE), np.zeros(count, TUPLE))

    def put(self, at: Positions, entries: Entries) -> None:
        self.found[at] = entries.found
        self.original[at] = entries.original
        self.reply[at] = entries.reply

    def take(self, at: Positions) -> Entries:
        return Entries(self.found[at], self.original[at], self.reply[at])


def encode_requests(tuples: Tuples, sequence: int) -> bytes:
    """Returns one IPCTNL_MSG_CT_GET per tuple, numbered from ``sequence`` (modulo 2**32)."""
    requests = np.zeros(len(tuples), _REQUEST)
    words = requests.view(np.uint32).reshape(len(tuples), -1)
    words[:, 5:] = _ORIGINAL
    requests["length"], requests["type"] = _REQUEST.itemsize, _GET_CONNECTION
    requests["flags"], requests["family"] = wire.F_REQUEST, socket.AF_INET
    requests["sequence"] = np.arange(sequence, sequence + len(tuples)) % 2**32
    for name in _WIRE_TUPLE.names or ():
        requests["original"][name] = tuples[name]
    return requests.tobytes()


def decode_answers(
    answers: NDArray[np.void], sequence: int, count: int
) -> tuple[Entries, int, int]:
    """Returns the entries, the number of unread answers, and the first error or 0.

    ``answers`` are ANSWERs, one per datagram, to requests numbered from ``sequence``. Entries that
    do not exist (ENOENT) are no errors.
    """
    entries = Entries.none(count)
    at = (answers["sequence"].astype(np.int64) - sequence) % 2**32
    ours = at < count
    is_error = answers["type"] == wire.ERROR
    absent = is_error & (answers["error"] == -errno.ENOENT)
    found = ours & _is_readable(answers)
    for side in ("original", "reply"):
        getattr(entries, side)[at[found]] = _decode_tuples(answers[side][found])
    entries.found[at[found]] = True
    errors = answers["error"][ours & is_error & ~absent]
    unread = int(np.count_nonzero(ours & ~found & ~absent))
    return entries, unread, -int(errors[0]) if len(errors) else 0


def _is_readable(answers: NDArray[np.void]) -> Flags:
    words = answers.view(np.uint32).reshape(len(answers), -1)
    readable: Flags = (answers["type"] == _CONNECTION) & (answers["length"] >= _ANSWER_OCTETS)
    for start, template in ((5, _ORIGINAL), (18, _REPLY)):
        headers = words[:, [start + place for place in _HEADER_PLACES]]
        readable &= (headers == template[_HEADER_PLACES]).all(axis=1)
    return readable


def _decode_tuples(wire: NDArray[np.void]) -> Tuples:
    tuples = np.zeros(len(wire), TUPLE)
    for name in _WIRE_TUPLE.names or ():
        tuples[name] = wire[name]
    return tuples


class Conntrack:
    """Looks up connections after ``open``. The kernel answers within ``send``, so nothing waits."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 1
        self._answers = np.zeros(_LOT, ANSWER)
        self.unread = 0

    def open(self) -> bool:
        """Returns False while connection tracking is not loaded. Raises OSError if forbidden."""
        if self._socket is not None:
            return True
        if not _LOADED.exists():
            return False
        self._socket = wire.open_socket(_NETLINK_NETFILTER)
        self._socket.setblocking(False)
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def read_count(self) -> int:
        """Returns the number of connections tracked in the namespace."""
        sequence = self._take_numbers(1)
        family = _FAMILY.pack(socket.AF_INET, 0, 0)
        self._opened().send(wire.encode_message(_GET_STATISTICS, 0, sequence, family))
        for _, datagram, start, _ in wire.Reply(self._opened(), sequence):
            at = start + wire.HEADER.size + _FAMILY.size + wire.ATTRIBUTE.size
            count: int = struct.unpack_from(">I", datagram, at)[0]  # CTA_STATS_GLOBAL_ENTRIES
            return count
        raise OSError(errno.EPROTO, "the kernel does not say how many connections it tracks")

    def look_up(self, tuples: Tuples) -> Entries:
        """Returns the entries of ``tuples``, and counts unreadable answers in ``unread``.

        Raises OSError if the kernel refuses.
        """
        entries = Entries.none(len(tuples))
        for start in range(0, len(tuples), _LOT):
            lot = tuples[start : start + _LOT]
            sequence = self._take_numbers(len(lot))
            self._opened().send(encode_requests(lot, sequence))
            answers = self._receive(len(lot))
            found, unread, code = decode_answers(answers, sequence, len(lot))
            entries.put(np.arange(start, start + len(lot)), found)
            self.unread += unread + len(lot) - len(answers)
            if code:
                raise OSError(code, os.strerror(code))
        return entries

    def _receive(self, count: int) -> NDArray[np.void]:
        """Returns up to ``count`` datagrams, as many as are queued."""
        octets, at = self._answers.view(np.uint8).data, 0
        receive, size = self._opened().recv_into, ANSWER.itemsize
        while at < count:
            try:
                receive(octets[at * size :], size)
                at += 1
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # some were dropped; the others follow
                    raise
        return self._answers[:at]

    def _take_numbers(self, count: int) -> int:
        first = self._sequence
        self._sequence = (first + count) % 2**32
        return first

    def _opened(self) -> socket.socket:
        assert self._socket is not None
        return self._socket
