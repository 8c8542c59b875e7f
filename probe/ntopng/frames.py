"""The two frames of a message to ntopng: a header of 28 octets (its v2) and a payload."""

from __future__ import annotations

import struct

#: What the version field says of the payload.
JSON, TLV = 2, 3
FLOW, EVENT, COUNTER, TEMPLATE = "flow", "event", "counter", "template"
LISTENING_PORTS, SNMP_IFACES = "listening-ports", "snmp-ifaces"
#: ntopng drops what is longer.
MAX_PAYLOAD = 131072

_TOPIC_OCTETS = 16
_MAX_SIZE = 0xFFFF
#: topic, version, size; numbers are little-endian but for msg_id, which comes next.
_FRONT = struct.Struct(f"<{_TOPIC_OCTETS}sBxH")
_BACK = struct.Struct("<I")


def encode_header(topic: str, version: int, size: int, message_id: int, source_id: int) -> bytes:
    """``size`` saturates: a payload may have more octets than its 16 bits can say."""
    return (
        _FRONT.pack(topic.encode("ascii"), version, min(size, _MAX_SIZE))
        + (message_id & 0xFFFFFFFF).to_bytes(4, "big")
        + _BACK.pack(source_id)
    )


def topic_frame_matches(topic: str, prefix: bytes) -> bool:
    """Whether a subscription to ``prefix`` takes the messages of ``topic``."""
    return topic.encode("ascii").ljust(_TOPIC_OCTETS, b"\0").startswith(prefix)
