"""Destinations as the user writes them: ``ipfix://HOST:PORT?max_message=1400&pace=8000000``."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from probe.errors import ConfigError

IPFIX_PORT = 4739

#: Octets a second: some 44 000 records of the default Template. nfcapd reads from a socket buffer
#: of 212 992 octets (net.core.rmem_default), of which the kernel charges about 2304 for a message
#: of 1400: a burst (``export.pacing``) takes half of it. Measured with nfcapd 1.7.1 on two busy
#: cores: nothing lost at 16 and 24 million octets a second, 0.5 % at 40 million.
DEFAULT_PACE = 16_000_000
DEFAULT_MAX_MESSAGE = 1400
_LEAST_MESSAGE = 512


@dataclass(frozen=True, slots=True)
class Destination:
    """Where messages go. ``pace`` is octets a second, 0 for no limit."""

    scheme: str
    host: str
    port: int
    max_message: int = DEFAULT_MAX_MESSAGE
    pace: int = DEFAULT_PACE

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_destination(text: str) -> Destination:
    """``text`` as a Destination; ConfigError says what is wrong with it."""
    example = "expected ipfix://HOST:PORT, IPv6 addresses in brackets"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"destination {text!r}: {error}; {example}") from None
    if parts.scheme != "ipfix" or not host or parts.path not in ("", "/") or parts.fragment:
        raise ConfigError(f"destination {text!r}: {example}")
    if parts.username is not None or port == 0 or not _is_host(host):
        raise ConfigError(f"destination {text!r}: {example}")
    options = _options(text, parts.query)
    return Destination(parts.scheme, host, port or IPFIX_PORT, **options)


def _is_host(text: str) -> bool:
    """An address, or what may be a name: whether one has it is for the resolver to say."""
    try:
        text.encode("idna")  # as the resolver would: labels of 1 to 63 octets
    except UnicodeError:
        return False
    return not any(c.isspace() for c in text)


def _options(text: str, query: str) -> dict[str, int]:
    ranges = {"max_message": (_LEAST_MESSAGE, 65507), "pace": (0, 1 << 40)}
    options: dict[str, int] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in ranges:
            raise ConfigError(
                f"destination {text!r}: unknown option {key}; known: max_message, pace"
            )
        low, high = ranges[key]
        if not value.isdecimal() or not low <= int(value) <= high:
            raise ConfigError(f"destination {text!r}: {key} must be {low} to {high}")
        options[key] = int(value)
    return options
