"""Reads as ntopng does, from notes on its source and without our encoder's code."""

from __future__ import annotations

import json
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import zmq

MAX_PAYLOAD = 131072
TOPICS = (
    "flow", "event", "counter", "template", "option", "hello", "listening-ports", "snmp-ifaces",
)  # fmt: skip
_INTEGERS = {2: ">B", 3: ">H", 4: ">I", 5: ">Q", 6: ">b", 7: ">h", 8: ">i", 9: ">q"}
_FLOAT, _STRING = 10, 11
_KEYS = (2, 3, 4, _STRING)

Item = int | float | str
Record = dict[int | str, Item]


class BadMessage(Exception):
    """Raised for a message that ntopng would not read."""


@dataclass(frozen=True)
class Header:
    topic: str
    version: int
    size: int
    message_id: int
    source_id: int


def read_header(octets: bytes) -> Header:
    """Reads a header of 28 octets (version 2)."""
    if len(octets) != 28:
        raise BadMessage(f"a header of {len(octets)} octets")
    topic = octets[:16].partition(b"\0")[0]
    if octets[len(topic) : 16].strip(b"\0") or topic.decode() not in TOPICS:
        raise BadMessage(f"topic {octets[:16]!r}")
    return Header(
        topic.decode(),
        octets[16],
        int.from_bytes(octets[18:20], "little"),
        int.from_bytes(octets[20:24], "big"),
        int.from_bytes(octets[24:28], "little"),
    )


class Tlv:
    """A cursor over a payload."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0

    def records(self) -> list[Record]:
        if self._take(2) != b"\1\1":
            raise BadMessage("no 01 01 at the beginning")
        found: list[Record] = []
        record: Record = {}
        while self._at < len(self._octets):
            kind = self._take(1)[0]
            if kind == 1:
                if not record:
                    raise BadMessage("an empty record")
                found.append(record)
                record = {}
                continue
            if kind >> 4 not in _KEYS:
                raise BadMessage(f"key type {kind >> 4}")
            key = self._value(kind >> 4)
            assert not isinstance(key, float)
            if key in record:
                raise BadMessage(f"{key} is there twice")
            record[key] = self._value(kind & 15)
        if record:
            raise BadMessage("a record without its end")
        return found

    def _value(self, kind: int) -> Item:
        if kind in _INTEGERS:
            layout = _INTEGERS[kind]
            return int(struct.unpack(layout, self._take(struct.calcsize(layout)))[0])
        if kind == _FLOAT:
            return float(struct.unpack("<f", self._take(4))[0])
        if kind == _STRING:
            text = self._take(int.from_bytes(self._take(2), "big"))
            if b"\0" in text:
                raise BadMessage(f"NUL in {text!r}")
            return text.decode("utf-8")
        raise BadMessage(f"value type {kind}")

    def _take(self, count: int) -> bytes:
        taken = self._octets[self._at : self._at + count]
        if len(taken) != count:
            raise BadMessage("cut off")
        self._at += count
        return taken


#: Maps every key of a field to its name.
_NAMES = {
    8: "IPV4_SRC_ADDR", 12: "IPV4_DST_ADDR", 27: "IPV6_SRC_ADDR", 28: "IPV6_DST_ADDR",
    7: "L4_SRC_PORT", 11: "L4_DST_PORT", 4: "PROTOCOL", 60: "IP_PROTOCOL_VERSION",
    1: "IN_BYTES", 2: "IN_PKTS", 23: "OUT_BYTES", 24: "OUT_PKTS",
    22: "FIRST_SWITCHED", 21: "LAST_SWITCHED", 10: "INPUT_SNMP", 14: "OUTPUT_SNMP",
    130: "EXPORTER_IPV4_ADDRESS", "35632.78": "CLIENT_TCP_FLAGS", "35632.79": "SERVER_TCP_FLAGS",
    "35632.123": "CLIENT_NW_LATENCY_MS", "35632.124": "SERVER_NW_LATENCY_MS",
    "35632.109": "RETRANSMITTED_IN_PKTS", "35632.110": "RETRANSMITTED_OUT_PKTS",
    "35632.111": "OOORDER_IN_PKTS", "35632.112": "OOORDER_OUT_PKTS",
}  # fmt: skip
_PORTS = ("L4_SRC_PORT", "L4_DST_PORT")
_U32 = ("IN_BYTES", "OUT_BYTES", "IN_PKTS", "OUT_PKTS")


def read_flows(payload: bytes) -> list[dict[str, Any]]:
    """Returns the flows of a TLV payload, with all keys by name."""
    flows = []
    for record in Tlv(payload).records():
        flow = {str(_NAMES.get(key, key)): value for key, value in record.items()}
        for name in _PORTS:
            if not isinstance(flow[name], int):
                raise BadMessage(f"{name} must be an integer")
        for name in _U32:
            flow[name] = int(flow[name]) & 0xFFFFFFFF
        flows.append(flow)
    return flows


@dataclass
class Reader:
    """A SUB socket like ntopng's; ``bind`` is the ``c`` at the end of its address."""

    endpoint: str
    bind: bool = False
    curve: tuple[bytes, bytes] | None = None  # public, secret
    prefixes: tuple[str, ...] = ("",)
    receive_messages: int = 0
    buffer_octets: int = 0
    flows: list[dict[str, Any]] = field(default_factory=list)
    objects: list[dict[str, Any]] = field(default_factory=list)  # topic flow in JSON
    topics: dict[str, list[Any]] = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    source_ids: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.rcvhwm = self.receive_messages
        if self.buffer_octets:
            self._socket.rcvbuf = self.buffer_octets
        if self.curve:
            self._socket.curve_publickey, self._socket.curve_secretkey = self.curve
            self._socket.curve_server = True
        for prefix in self.prefixes:
            self._socket.subscribe(prefix)
        if self.bind:
            self._socket.bind(self.endpoint)
        else:
            self._socket.connect(self.endpoint)
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    @property
    def dropped(self) -> int:
        """Returns how many messages ntopng would count as lost, by jumps of the id."""
        return sum(b - a - 1 for a, b in zip(self.ids, self.ids[1:], strict=False) if b > a)

    def read(self) -> int:
        """Reads the messages that are there."""
        count = 0
        while self._socket.poll(0):
            frames = self._socket.recv_multipart()
            if len(frames) != 2:
                raise BadMessage(f"{len(frames)} frames")
            self._take(read_header(frames[0]), frames[1])
            count += 1
        return count

    def read_until(
        self, is_done: Callable[[], object], pump: Callable[[], object] = lambda: None
    ) -> None:
        deadline = time.monotonic() + 20
        while not is_done():
            assert time.monotonic() < deadline, (self.seen, len(self.flows))
            pump()
            if not self.read():
                time.sleep(0.005)

    def close(self) -> None:
        self._socket.close(0)
        self._context.term()

    def _take(self, header: Header, payload: bytes) -> None:
        if len(payload) > MAX_PAYLOAD:
            raise BadMessage(f"{len(payload)} octets")
        if header.size != min(len(payload), 65535):
            raise BadMessage(f"size {header.size} of {len(payload)}")
        self.ids.append(header.message_id)
        self.source_ids.add(header.source_id)
        self.seen[header.topic] += 1
        if header.topic == "flow" and header.version == 3:
            self.flows += read_flows(payload)
        elif header.version != 2:
            raise BadMessage(f"version {header.version} on {header.topic}")
        elif header.topic == "flow":
            self.objects.append(json.loads(payload))
        else:
            self.topics.setdefault(header.topic, []).append(json.loads(payload))
