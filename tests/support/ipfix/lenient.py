"""Samples of what devices send against RFC 7011 and RFC 3954, made by hand.

Each sample has two flows around one quirk, and a collector must read both. ``judges`` are other
collectors that read both; tests/interop/test_lenient_exporters.py checks that.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from probe.ipfix.oddity import Oddity
from tests.support.ipfix.messages import (
    message,
    options_template,
    options_template9,
    packet,
    template,
)

NOW_S = 1_767_323_045
UPTIME_MS = 5_000_000
#: Addresses, ports, protocol, octets and packets; v9 adds times in the system's uptime.
FIELDS = [(8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (1, 4), (2, 4)]
TIMES9, TIMES = [(22, 4), (21, 4)], [(152, 8), (153, 8)]
ALL, TSHARK, NFDUMP, NOBODY = ("tshark", "nfdump"), ("tshark",), ("nfdump",), ()


@dataclass(frozen=True)
class Sample:
    """A sample; ``datagrams`` have flows 1 and 2, and flow 2 follows the quirk."""

    name: str
    datagrams: tuple[bytes, ...]
    oddities: frozenset[Oddity]
    judges: tuple[str, ...] = ALL
    options: tuple[dict[str, object], ...] = ()


def flow9(number: int) -> bytes:
    times = struct.pack("!II", UPTIME_MS - 4000, UPTIME_MS - 3000)
    return _flow(number) + times


def flow(number: int) -> bytes:
    return _flow(number) + struct.pack("!QQ", NOW_S * 1000 - 4000, NOW_S * 1000 - 3000)


def _flow(number: int) -> bytes:
    ends = bytes([192, 0, 2, number, 198, 51, 100, number])
    return ends + struct.pack("!HHBII", 40000 + number, 443, 6, 1500 + number, 3 + number)


def expected(number: int) -> tuple[object, ...]:
    """Returns addresses, ports, protocol, octets and packets of a flow."""
    ends = f"192.0.2.{number}", f"198.51.100.{number}"
    return (*ends, 40000 + number, 443, 6, 1500 + number, 3 + number)


def v9(*sets: tuple[int, bytes], count: int, sequence: int = 0, tail: bytes = b"") -> bytes:
    head = packet(*sets, uptime_ms=UPTIME_MS, time_s=NOW_S, sequence=sequence, count=count)
    return head + tail


def v10(*sets: tuple[int, bytes], sequence: int = 0, tail: bytes = b"", more: int = 0) -> bytes:
    """Returns a message that ends with ``tail``; ``more`` is added to its length field."""
    octets = message(*sets, time_s=NOW_S, sequence=sequence) + tail
    return octets[:2] + struct.pack("!H", len(octets) + more) + octets[4:]


def cut_set(number: int, body: bytes, missing: int) -> bytes:
    """Returns a Set whose length field is too large."""
    return struct.pack("!HH", number, len(body) + 4 + missing) + body


T9, T10 = template(256, *FIELDS, *TIMES9), template(256, *FIELDS, *TIMES)
PADDED9 = b"\0" * (-len(flow9(1)) % 4)
#: An Options Template whose scope is the whole system.
SYSTEM9 = options_template9(300, 1, (1, 4), (40, 4)) + b"\0\0"


def _sample(name: str, *datagrams: bytes, odd: tuple[Oddity, ...], **more: object) -> Sample:
    return Sample(name, datagrams, frozenset(odd), **more)  # type: ignore[arg-type]


SAMPLES = [
    # -- scopes and fields of length 0 -------------------------------------------------------------
    _sample(
        "v9-scope-of-length-0 (Juniper J-Flow)",
        v9((0, T9), (1, options_template9(300, 1, (1, 0), (40, 4), (36, 2)) + b"\0\0"), count=2),
        v9(
            (300, struct.pack("!IH", 100, 60) + b"\0\0"),
            (256, flow9(1) + flow9(2)),
            count=3,
            sequence=1,
        ),
        odd=(Oddity.EMPTY_FIELD,),
        options=({"exportedOctetTotalCount": 100, "flowActiveTimeout": 60},),
    ),
    _sample(
        "v9-field-of-length-0",
        v9((0, template(256, *FIELDS, (82, 0), *TIMES9, (10, 0))), count=1),
        v9((256, flow9(1) + flow9(2)), count=2, sequence=1),
        odd=(Oddity.EMPTY_FIELD,),
    ),
    # -- padding -----------------------------------------------------------------------------------
    _sample(
        "v9-padding-not-zero (Cisco WLC)",
        v9((0, T9), (256, flow9(1) + b"\x42\x43\x44"), count=2),
        v9((256, flow9(2) + b"\x45\x46\x47"), count=1, sequence=1),
        odd=(Oddity.PADDING,),
    ),
    _sample(
        "v9-options-padding-not-zero (nProbe)",
        v9((0, T9), (1, SYSTEM9[:-2] + b"\x12\x34"), (256, flow9(1)), count=3),
        v9((300, struct.pack("!II", 0, 7)), (256, flow9(2)), count=2, sequence=1),
        odd=(Oddity.PADDING,),
        options=({"scopeSystem": 0, "exportedOctetTotalCount": 7},),
    ),
    _sample(
        "v9-no-padding (Cisco WLC)",
        v9((0, T9), (1, SYSTEM9[:-2]), (256, flow9(1)), (256, flow9(2)), count=4),
        odd=(),
    ),
    _sample(
        "v9-padding-behind-each-options-template",
        v9((1, SYSTEM9 + options_template9(301, 1, (1, 4), (36, 2)) + b"\0\0"), (0, T9), count=3),
        v9((301, struct.pack("!IH", 0, 60)), (256, flow9(1) + flow9(2)), count=3, sequence=1),
        odd=(),
        judges=NFDUMP,
        options=({"scopeSystem": 0, "flowActiveTimeout": 60},),
    ),
    _sample(
        "v9-padding-that-no-length-counts",
        v9((0, T9), count=3, tail=cut_set(256, flow9(1), 0) + PADDED9 + cut_set(256, flow9(2), 0)),
        odd=(Oddity.UNCOUNTED_PADDING,) if PADDED9 else (),
        judges=NOBODY,
    ),
    _sample(
        "v9-length-counts-padding-that-is-not-there",
        v9((0, T9), (256, flow9(1)), count=3, tail=cut_set(256, flow9(2), 3)),
        odd=(Oddity.SET_LENGTH,),
        judges=NOBODY,
    ),
    _sample(
        "ipfix-padding-not-zero (Mikrotik)",
        v10((2, T10 + b"\0\0\0"), (256, flow(1) + b"\xff\xfe")),
        v10((256, flow(2) + b"\x01\x02\x03\x04"), sequence=1),
        odd=(Oddity.PADDING,),
    ),
    _sample(
        "ipfix-template-padding-not-zero",
        v10((2, T10 + b"\1\2\3"), (3, options_template(300, 1, (149, 4), (40, 4)) + b"\1")),
        v10((300, struct.pack("!II", 1, 9)), (256, flow(1) + flow(2))),
        odd=(Oddity.PADDING,),
        options=({"observationDomainId": 1, "exportedOctetTotalCount": 9},),
    ),
    _sample(
        "ipfix-long-padding-behind-a-template",
        v10((2, T10 + bytes(12)), (256, flow(1) + flow(2))),
        odd=(Oddity.LONG_PADDING,),
    ),
    # -- tails -------------------------------------------------------------------------------------
    _sample(
        "v9-zero-tail (Cisco ACI)",
        v9((0, T9), (256, flow9(1)), count=2, tail=bytes(64)),
        v9((256, flow9(2)), count=1, sequence=1, tail=bytes(6)),
        odd=(Oddity.ZERO_TAIL,),
    ),
    _sample(
        "ipfix-zero-tail (Palo Alto)",
        v10((2, T10), (256, flow(1)), tail=bytes(40)),
        v10((256, flow(2)), sequence=1, tail=bytes(3)),
        odd=(Oddity.ZERO_TAIL,),
    ),
    _sample(
        "ipfix-octets-behind-the-message",
        v10((2, T10), (256, flow(1) + flow(2))) + b"behind it",
        odd=(Oddity.BEHIND_MESSAGE,),
    ),
    _sample(
        "ipfix-header-without-a-length",
        b"\0\x0a\0\0" + v10((2, T10), (256, flow(1) + flow(2)))[4:],
        odd=(Oddity.MESSAGE_LENGTH,),
        judges=NFDUMP,
    ),
    _sample(
        "ipfix-length-without-the-header",
        v10((2, T10), (256, flow(1)), (256, flow(2)), more=-16),
        odd=(Oddity.MESSAGE_LENGTH,),
    ),
    # -- lengths -----------------------------------------------------------------------------------
    _sample(
        "v9-variable-length (H3C)",
        v9((0, template(256, *FIELDS, *TIMES9, (82, 65535))), count=1),
        v9((256, flow9(1) + b"\x04eth0" + flow9(2) + b"\x00"), count=2, sequence=1),
        odd=(Oddity.VARIABLE_LENGTH,),
    ),
    _sample(
        "v9-options-lengths-no-multiple-of-4",
        v9((0, T9), (1, b"\x01\x2c\0\5\0\7" + SYSTEM9[6:]), count=2),
        v9((300, struct.pack("!II", 0, 7)), (256, flow9(1) + flow9(2)), count=3, sequence=1),
        odd=(Oddity.OPTIONS_LENGTH,),
        options=({"scopeSystem": 0, "exportedOctetTotalCount": 7},),
    ),
    _sample(
        "v9-set-of-length-0-at-the-end",
        v9((0, T9), (256, flow9(1) + flow9(2)), count=3, tail=b"\1\0\0\0" + flow9(3)),
        odd=(Oddity.SET_LENGTH,),
    ),
    _sample(
        "ipfix-set-beyond-the-message",
        v10((2, T10), (256, flow(1) + flow(2)), tail=struct.pack("!HH", 999, 400) + flow(3)),
        odd=(Oddity.SET_LENGTH,),
    ),
    _sample(
        "ipfix-message-that-was-cut",
        v10((2, T10), (256, flow(1) + flow(2) + flow(3)))[:-9],
        odd=(Oddity.CUT_MESSAGE, Oddity.SET_LENGTH),
        judges=NOBODY,
    ),
    # -- counts and ids ----------------------------------------------------------------------------
    _sample(
        "v9-count-of-flowsets",
        v9((0, T9), (256, flow9(1) + flow9(2)), count=2),
        odd=(Oddity.COUNT_OF_SETS,),
        judges=TSHARK,  # nfdump reads the number as that of records, and stops there
    ),
    _sample(
        "v9-wrong-count",
        v9((0, T9), (256, flow9(1) + flow9(2)), count=30),
        odd=(Oddity.COUNT,),
    ),
    _sample(
        "v9-template-without-fields",
        v9((0, T9 + struct.pack("!HH", 256, 0)), (256, flow9(1) + flow9(2)), count=3),
        odd=(Oddity.NO_FIELDS,),
    ),
    _sample(
        "v9-template-id-below-256",
        v9((0, template(7, (1, 4)) + T9), (256, flow9(1) + flow9(2)), count=3),
        odd=(Oddity.TEMPLATE_ID,),
    ),
    _sample(
        "ipfix-reserved-set",
        v10((2, T10), (17, b"whatever"), (256, flow(1) + flow(2))),
        odd=(Oddity.RESERVED_SET,),
    ),
    _sample(
        "ipfix-options-without-a-scope",
        v10((2, T10), (3, options_template(300, 0, (149, 4), (40, 4)))),
        v10((300, struct.pack("!II", 1, 9)), (256, flow(1) + flow(2))),
        odd=(Oddity.NO_SCOPE,),
        options=({"observationDomainId": 1, "exportedOctetTotalCount": 9},),
    ),
    _sample(
        "ipfix-a-broken-template-behind-a-good-one",
        v10((2, T10 + struct.pack("!HHHH", 257, 9, 1, 8)), (256, flow(1) + flow(2))),
        odd=(Oddity.CUT_TEMPLATE,),
    ),
    _sample(
        "ipfix-several-templates-a-set",
        v10((2, template(300, (1, 8)) + T10 + template(301, (2, 8))), (256, flow(1) + flow(2))),
        odd=(),
    ),
]
