"""Converts octets of a field to a value, and checks it by RFC 7011 section 6.1."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable

Value = int | float | str | bool
Say = Callable[[str, str], None]
_NTP_EPOCH_S = 2_208_988_800


def value_of(kind: str | None, octets: bytes, is_padded: bool, say: Say) -> Value:
    """Returns the value, in hex digits if its type is unknown.

    ``is_padded`` means that NULs end a string, as in NetFlow v9.
    """
    match kind:
        case None | "octetArray" | "basicList" | "subTemplateList" | "subTemplateMultiList":
            return octets.hex()
        case "string":
            return _text(octets.rstrip(b"\0") if is_padded else octets, say)
        case "ipv4Address" | "ipv6Address":
            return str(ipaddress.ip_address(octets))
        case "macAddress":
            return octets.hex(":")
        case "boolean":
            return _truth(octets, say)
        case "float32" | "float64":
            return float(struct.unpack("!f" if len(octets) == 4 else "!d", octets)[0])
        case "dateTimeMicroseconds" | "dateTimeNanoseconds":
            seconds, fraction = struct.unpack("!II", octets)
            return float((seconds - _NTP_EPOCH_S) * 1000 + fraction * 1000 / 2**32)
    return int.from_bytes(octets, "big", signed=kind.startswith("signed"))


def _truth(octets: bytes, say: Say) -> bool:
    if octets not in (b"\1", b"\2"):
        say("value.boolean", octets.hex())
    return octets == b"\1"


def _text(octets: bytes, say: Say) -> str:
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        say("value.utf8", repr(octets[:40]))
        return octets.hex()
    if "\0" in text:
        say("value.nul", repr(text[:40]))
    elif any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        say("value.control", repr(text[:40]))
    return text
