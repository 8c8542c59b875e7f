"""Where messages and lines go, as read from the URL that the user wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Octets a second: some 44 000 records of the default Template. nfcapd reads from a socket buffer
#: of 212 992 octets (net.core.rmem_default), of which the kernel charges about 2304 for a message
#: of 1400: a burst (``export.pacing``) takes half of it. Measured with nfcapd 1.7.1 on two busy
#: cores: nothing lost at 16 and 24 million octets a second and 0.5 % at 40 million, but on another
#: day up to 0.1 % at 11 million, and nothing with a larger buffer (``-B``), as documented.
DEFAULT_PACE = 16_000_000
DEFAULT_MAX_MESSAGE = 1400
#: Of streams and files, which no path MTU bounds: one TLS record, and less header by the record.
DEFAULT_STREAM_MESSAGE = 16384
#: The path of a Destination that is standard output.
STDOUT = "-"


@dataclass(frozen=True, slots=True)
class Destination:
    """One destination. ``str`` of it is its URL without options.

    pace: octets a second, 0 for no limit.
    segmentation: whether the kernel cuts up what one call sends (UDP_SEGMENT). System calls are
    the largest cost of export, but a capture on this host then shows many messages as one long
    packet. None means: only where there is no pace.
    path: of a file, empty for all others. ca, cert, key: files of TLS; an empty ``ca`` stands for
    the system's authorities. name: what the collector's certificate must hold, if not the host.
    share: destinations with the same value form a group, among which flows are divided.
    strings: whether names keep all their characters. None leaves that to the profile.
    options: all that only this kind of destination knows.
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
