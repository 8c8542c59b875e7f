"""Builds the two frames of a message to ntopng: a header of 28 octets (its v2) and a payload."""

from __future__ import annotations

import struct

#: Values of the version field, which give the format of the payload.
JSON, TLV = 2, 3
FLOW, EVENT, COUNTER, TEMPLATE = "flow", "event", "counter", "template"
LISTENING_PORTS, SNMP_IFACES = "listening-ports", "snmp-ifaces"
#: Octets of the longest payload; ntopng drops longer ones.
MAX_PAYLOAD = 131072

_TOPIC_OCTETS = 16
_MAX_SIZE = 0xFFFF
#: topic, version, size; numbers are little-endian but for msg_id, which comes next.
_FRONT = struct.Struct(f"<{_TOPIC_OCTETS}sBxH")
_BACK = struct.Struct("<I")


def encode_header(topic: str, version: int, size: int, message_id: int, source_id: int) -> bytes:
    """Returns the header. A ``size`` beyond its 16 bits becomes the largest value."""
    return (
        _FRONT.pack(topic.encode("ascii"), version, min(size, _MAX_SIZE))
        + (message_id & 0xFFFFFFFF).to_bytes(4, "big")
        + _BACK.pack(source_id)
    )


def topic_frame_matches(topic: str, prefix: bytes) -> bool:
    """Returns True if a subscription to ``prefix`` covers the messages of ``topic``."""
    return topic.encode("ascii").ljust(_TOPIC_OCTETS, b"\0").startswith(prefix)
