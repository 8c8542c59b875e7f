"""Defines a destination of messages or lines, as read from the URL that the user wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Octets a second: some 44 000 records of the default Template. nfcapd has a socket buffer of
#: 212 992 octets (net.core.rmem_default). The kernel charges about 2304 octets of it for a message
#: of 1400, so a burst (``transports/pacing.py``) takes half of the buffer.
#: Measured with nfcapd 1.7.1 on two busy cores: it lost nothing at 16 and 24 million octets a
#: second, and 0.5 % at 40 million. On another day it lost up to 0.1 % at 11 million. With a larger
#: buffer (``-B``), as documented, it lost nothing.
DEFAULT_PACE = 16_000_000
DEFAULT_MAX_MESSAGE = 1400
#: Default for streams and files, which no path MTU bounds. A message of this size fills one TLS
#: record, and has more records for each header.
DEFAULT_STREAM_MESSAGE = 16384
#: The path of a Destination that is standard output.
STDOUT = "-"


@dataclass(frozen=True, slots=True)
class Destination:
    """One destination. Its ``str`` is its URL without options.

    pace: octets a second, 0 for no limit.
    segmentation: whether the kernel cuts one long packet into messages (UDP_SEGMENT). System calls
    are the largest cost of export, but a capture on this host then shows many messages as one long
    packet. None means: only without a pace.
    path: the path of a file, empty for all other kinds. ca, cert, key: files for TLS; an empty
    ``ca`` means the authorities of the system. name: the name that the collector's certificate must
    hold, if that is not the host.
    share: destinations with the same value form a group, among which flows are divided.
    strings: whether names keep all their characters. None leaves that to the profile.
    options: all options that only this kind of destination has.
    """

    scheme: str
    host: str
    port: int
    max_message: int = DEFAULT_MAX_MESSAGE
    pace: int = DEFAULT_PACE
    segmentation: bool | None = None
    profile: str | None = None
    biflow: bool = False
    is_netflow9: bool = False
    share: str | None = None
    strings: str | None = None
    path: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        if self.path:
            slashes = "//" if self.path.startswith("/") else ""
            return f"{self.scheme}:{slashes}{self.host}{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"
