"""Encodes the items of a flow in TLV, except those of its owners.

All rows share one layout: a matrix of octets, from which absent items are then left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from socket import AF_INET6, inet_ntop
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.flow.rows import Rows
from probe.ntopng.tlv_items import FLOAT, KINDS, TEXT, U8, U16, U32, Key, encode_head

U32_MAX = 0xFFFFFFFF
_TCP = 6
_LONGEST_IPV4, _LONGEST_IPV6 = 15, 45

Values = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Number:
    """An item with a number. ntopng reads its ``key`` and shows its ``name``.

    ``when`` returns which rows have the item; None means all.
    """

    key: Key
    name: str
    kind: int
    read: Callable[[Rows], Values]
    when: Callable[[Rows], Values] | None = None


def _column(name: str) -> Callable[[Rows], Values]:
    return lambda flows: flows[name]


def _first_s(flows: Rows) -> Values:
    return _seconds(np.minimum(flows["first_ns"], flows["reverse_first_ns"]))


def _last_s(flows: Rows) -> Values:
    return _seconds(np.maximum(flows["last_ns"], flows["reverse_last_ns"]))


def _seconds(ns: Values) -> Values:
    return np.asarray(np.clip(ns // 1_000_000_000, 0, U32_MAX))


def _is_tcp(flows: Rows) -> Values:
    return np.asarray(np.equal(flows["protocol"], _TCP))


def _rtt_ms(flows: Rows) -> Values:
    return np.asarray(np.divide(flows["rtt_us"], np.float32(1000)))


def _sees_server_side(flows: Rows) -> Values:
    """Returns the rows with a round-trip time measured at the client: it is that to the server."""
    return np.asarray((flows["rtt_us"] != 0) & (flows["source_netns"] != 0))


def _sees_client_side(flows: Rows) -> Values:
    return np.asarray((flows["rtt_us"] != 0) & (flows["source_netns"] == 0))


def _has(name: str) -> Callable[[Rows], Values]:
    return lambda flows: flows[name] != 0


#: Keys of ntop's elements begin with its enterprise number, so they need no Template.
NUMBERS = (
    Number(60, "IP_PROTOCOL_VERSION", U8, _column("ip_version")),
    Number(4, "PROTOCOL", U8, _column("protocol")),
    Number(7, "L4_SRC_PORT", U16, _column("source_port")),
    Number(11, "L4_DST_PORT", U16, _column("destination_port")),
    Number(1, "IN_BYTES", U32, _column("octets")),
    Number(2, "IN_PKTS", U32, _column("packets")),
    Number(23, "OUT_BYTES", U32, _column("reverse_octets")),
    Number(24, "OUT_PKTS", U32, _column("reverse_packets")),
    Number(22, "FIRST_SWITCHED", U32, _first_s),
    Number(21, "LAST_SWITCHED", U32, _last_s),
    Number(10, "INPUT_SNMP", U32, _column("ingress_interface"), _has("ingress_interface")),
    Number(14, "OUTPUT_SNMP", U32, _column("egress_interface"), _has("egress_interface")),
    Number("35632.78", "CLIENT_TCP_FLAGS", U8, _column("tcp_flags"), _is_tcp),
    Number("35632.79", "SERVER_TCP_FLAGS", U8, _column("reverse_tcp_flags"), _is_tcp),
    Number("35632.123", "CLIENT_NW_LATENCY_MS", FLOAT, _rtt_ms, _sees_client_side),
    Number("35632.124", "SERVER_NW_LATENCY_MS", FLOAT, _rtt_ms, _sees_server_side),
    Number(
        "35632.109", "RETRANSMITTED_IN_PKTS", U32, _column("retransmitted"), _has("retransmitted")
    ),
    Number(
        "35632.110",
        "RETRANSMITTED_OUT_PKTS",
        U32,
        _column("reverse_retransmitted"),
        _has("reverse_retransmitted"),
    ),
)
#: Keys of the addresses at both sides, by IP version.
ADDRESSES = {
    4: ((8, "IPV4_SRC_ADDR", "source_address"), (12, "IPV4_DST_ADDR", "destination_address")),
    6: ((27, "IPV6_SRC_ADDR", "source_address"), (28, "IPV6_DST_ADDR", "destination_address")),
}


class FlowItems:
    """Encodes the items of the flows of one IP version, except those of owners."""

    def __init__(self, ip_version: int, constant: bytes = b"") -> None:
        """``constant`` holds items that are the same in each record."""
        longest = _LONGEST_IPV4 if ip_version == 4 else _LONGEST_IPV6
        self._write_text = _write_ipv4 if ip_version == 4 else _write_ipv6
        layout = _Layout()
        self._addresses = []
        for key, _, column in ADDRESSES[ip_version]:
            layout.add(encode_head(key, TEXT) + b"\0")  # with the first octet of the length
            length = layout.add(b"\0")
            self._addresses.append((column, length, layout.add(bytes(longest))))
        self._numbers = []
        for number in NUMBERS:
            start = len(layout.octets)
            layout.add(encode_head(number.key, number.kind))
            value = layout.add_value(KINDS[number.kind])
            self._numbers.append((number, value, slice(start, len(layout.octets))))
        layout.add(constant)
        self._row = np.frombuffer(bytes(layout.octets), np.uint8)
        self._dtype = layout.dtype()

    def encode(self, flows: Rows) -> tuple[bytes, NDArray[np.int64]]:
        """Returns the items of all BIFLOW_DTYPE rows in sequence, and the end of each row's."""
        octets = np.empty((len(flows), len(self._row)), np.uint8)
        octets[:] = self._row
        kept = np.ones(octets.shape, bool)
        for column, length, text in self._addresses:
            octets[:, length.start] = self._write_text(flows[column], octets[:, text])
            np.not_equal(octets[:, text], 0, out=kept[:, text])
        lengths = np.full(len(flows), len(self._row), np.int64)
        for _, length, text in self._addresses:
            lengths -= (text.stop - text.start) - octets[:, length.start].astype(np.int64)
        values = octets.view(self._dtype)[:, 0]
        for number, name, item in self._numbers:
            values[name] = number.read(flows)
            if number.when:
                has = number.when(flows)
                kept[:, item] = has[:, None]
                lengths -= np.where(has, 0, item.stop - item.start)
        return np.compress(kept.ravel(), octets.ravel()).tobytes(), np.cumsum(lengths)


class _Layout:
    """The octets of a row, and the offsets of values in it."""

    def __init__(self) -> None:
        self.octets = bytearray()
        self._names: list[str] = []
        self._kinds: list[str] = []
        self._offsets: list[int] = []

    def add(self, octets: bytes) -> slice:
        start = len(self.octets)
        self.octets += octets
        return slice(start, len(self.octets))

    def add_value(self, kind: str) -> str:
        """Adds room for a value. Returns the name of its field in ``dtype``."""
        self._names.append(f"v{len(self._names)}")
        self._kinds.append(kind)
        self._offsets.append(len(self.octets))
        self.octets += bytes(np.dtype(kind).itemsize)
        return self._names[-1]

    def dtype(self) -> np.dtype[np.void]:
        return np.dtype(
            {
                "names": self._names,
                "formats": self._kinds,
                "offsets": self._offsets,
                "itemsize": len(self.octets),
            }
        )


def _decimals(suffix: str) -> NDArray[np.uint8]:
    """Returns the numbers 0 to 255 in decimal with ``suffix``, one a row, padded with NUL."""
    width = 3 + len(suffix)
    rows = b"".join(f"{n}{suffix}".encode().ljust(width, b"\0") for n in range(256))
    return np.frombuffer(rows, np.uint8).reshape(256, width)


_DOTTED, _LAST = _decimals("."), _decimals("")
_DIGITS = np.count_nonzero(_LAST, axis=1).astype(np.uint8)


def _write_ipv4(addresses: Values, out: NDArray[np.uint8]) -> Values:
    """Writes the first four octets of each address as text, with NUL for absent digits.

    Returns the lengths of the texts without NUL.
    """
    octets = addresses[:, :4]
    out[:, :12] = _DOTTED.take(octets[:, :3], axis=0).reshape(len(octets), 12)
    out[:, 12:] = _LAST.take(octets[:, 3], axis=0)
    return np.asarray(_DIGITS.take(octets).sum(axis=1, dtype=np.uint8) + 3)


def _write_ipv6(addresses: Values, out: NDArray[np.uint8]) -> Values:
    packed: Sequence[bytes] = np.ascontiguousarray(addresses).view("V16")[:, 0].tolist()
    texts = [_ipv6_text(address) for address in packed]
    padded = b"".join([text.ljust(_LONGEST_IPV6, b"\0") for text in texts])
    out[:] = np.frombuffer(padded, np.uint8).reshape(out.shape)
    return np.fromiter(map(len, texts), np.uint8, len(texts))


@lru_cache(maxsize=16384)
def _ipv6_text(address: bytes) -> bytes:
    return inet_ntop(AF_INET6, address).encode("ascii")
