"""Makes valid streams by hand, which tests of the strict reader then break."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from tests.support.ipfix.messages import Set, message, options_template, packet, template
from tests.support.reader.reader import StrictReader

NOW_S = 1_767_323_045
UPTIME_MS = 3_600_000
VARIABLE = 65535
PEN = 32473  # reserved for documentation (RFC 5612)
REVERSE = 29305
FLOW, TYPES, INTERFACES = 256, 300, 301
#: Addresses, ports, protocol, ipVersion, times, octets, packets, a boolean, a string, and our own.
FIELDS: tuple[tuple[int, ...], ...] = (
    (8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (60, 1), (152, 8), (153, 8), (1, 8), (2, 8),
    (276, 1), (82, VARIABLE), (1, VARIABLE, PEN),
)  # fmt: skip
#: The same in NetFlow v9: times since the boot, counters of 4 octets, fixed-length strings.
FIELDS9: tuple[tuple[int, int], ...] = (
    (8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (60, 1), (22, 4), (21, 4), (1, 4), (2, 4), (82, 8),
)  # fmt: skip
TYPE_FIELDS = (346, 4), (303, 2), (339, 1), (341, VARIABLE)
_STRING = 13
_ADDRESSES = ipaddress.ip_address("192.0.2.1").packed + ipaddress.ip_address("192.0.2.2").packed


def text(octets: bytes) -> bytes:
    """Returns a string of variable length."""
    return bytes((len(octets),)) + octets


def flow(
    *,
    version: int = 4,
    start_ms: int = NOW_S * 1000 - 3000,
    end_ms: int = NOW_S * 1000 - 1000,
    octets: int = 400,
    packets: int = 4,
    truth: int = 1,
    name: bytes = b"eth0",
) -> bytes:
    numbers = struct.pack("!HHBBQQQQB", 1024, 53, 17, version, start_ms, end_ms, octets, packets,
                          truth)  # fmt: skip
    return _ADDRESSES + numbers + text(name) + text(b"curl")


def flow9(*, start_ms: int = UPTIME_MS - 3000, end_ms: int = UPTIME_MS - 1000) -> bytes:
    numbers = struct.pack("!HHBBIIII", 1024, 53, 17, 4, start_ms, end_ms, 400, 4)
    return _ADDRESSES + numbers + b"eth0\0\0\0\0"


def type_record(
    element: int = 1, kind: int = _STRING, name: bytes = b"NAME", pen: int = PEN
) -> bytes:
    return struct.pack("!IHB", pen, element, kind) + text(name)


def padded(octets: bytes) -> bytes:
    """Returns octets padded as NetFlow v9 requires."""
    return octets + bytes(-len(octets) % 4)


@dataclass
class Stream:
    """A stream of IPFIX that is fed directly to a reader."""

    reader: StrictReader
    transport: str = "udp"
    sequence: int = 0
    domain: int = 1

    def raw(self, octets: bytes, at_s: float = NOW_S) -> None:
        self.reader.feed(octets, at_s, transport=self.transport)

    def send(self, *sets: Set, records: int = 0, time_s: int = NOW_S) -> None:
        """Sends a Set with ``records`` Data Records."""
        octets = message(*sets, sequence=self.sequence, odid=self.domain, time_s=time_s)
        self.sequence += records
        self.raw(octets, time_s)

    def begin(self) -> None:
        """Sends the Template of types, the types, and the Template of flows."""
        self.send((3, options_template(TYPES, 2, *TYPE_FIELDS)))
        self.send((TYPES, type_record()), records=1)
        self.send((2, template(FLOW, *FIELDS)))

    def flows(self, *records: bytes) -> None:
        self.send((FLOW, b"".join(records)), records=len(records))

    def template(self, *fields: tuple[int, ...], number: int = 400) -> None:
        self.send((2, template(number, *fields)))


@dataclass
class Stream9:
    """A stream of NetFlow v9."""

    reader: StrictReader
    sequence: int = 0
    source: int = 1

    def send(self, *sets: Set, count: int, time_s: int = NOW_S, uptime_ms: int = UPTIME_MS) -> None:
        octets = packet(*sets, count=count, uptime_ms=uptime_ms, time_s=time_s,
                        sequence=self.sequence, source=self.source)  # fmt: skip
        self.sequence += 1
        self.reader.feed(octets, time_s)

    def begin(self) -> None:
        self.send((0, template(FLOW, *FIELDS9)), count=1)

    def flows(self, *records: bytes) -> None:
        self.send((FLOW, padded(b"".join(records))), count=len(records))
