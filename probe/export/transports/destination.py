"""Destinations as the user writes them: ``ipfix://HOST:PORT?max_message=1400&pace=8000000``.

Only the text is judged here; files that it names are read when the sender opens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from probe.errors import ConfigError

IPFIX_PORT = 4739
IPFIX_TLS_PORT = 4740
NETFLOW9_PORT = 2055

#: Octets a second: some 44 000 records of the default Template. nfcapd reads from a socket buffer
#: of 212 992 octets (net.core.rmem_default), of which the kernel charges about 2304 for a message
#: of 1400: a burst (``export.pacing``) takes half of it. Measured with nfcapd 1.7.1 on two busy
#: cores: nothing lost at 16 and 24 million octets a second and 0.5 % at 40 million, but on another
#: day up to 0.1 % at 11 million, and nothing with a larger buffer (``-B``), as documented.
DEFAULT_PACE = 16_000_000
DEFAULT_MAX_MESSAGE = 1400
#: Of streams and files, which no path MTU bounds: one TLS record, and less header by the record.
DEFAULT_STREAM_MESSAGE = 16384
_LEAST_MESSAGE = 512
_LARGEST_DATAGRAM = 65507
_LARGEST_MESSAGE = 65535  # RFC 7011 section 3.1: Length has 16 bits
SHARES = ("hash", "round-robin")
BIFLOWS = ("rfc5103",)
STRINGS = ("plain", "full")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where messages go. ``pace`` is octets a second, 0 for no limit.

    ``segmentation``: whether the kernel cuts up what one call sends (UDP_SEGMENT). Calls are what
    export costs most, but a capture on this host then shows many messages as one long packet; so
    None is yes only where there is no pace.
    ``path`` is that of a file and empty elsewhere, as are the TLS files ``ca`` (empty: those of
    the system), ``cert`` and ``key``. ``name`` is the name that the collector's certificate must
    hold, if not the host. Destinations with the same ``share`` form a group. ``strings`` says
    whether names keep all their characters, None: what the profile needs. ``options`` are those of
    ``export.targets``.
    """

    scheme: str
    host: str
    port: int
    max_message: int = DEFAULT_MAX_MESSAGE
    pace: int = DEFAULT_PACE
    segmentation: bool | None = None
    profile: str | None = None
    biflow: bool = False
    share: str | None = None
    strings: str | None = None
    path: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    name: str = ""
    options: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        if self.path:
            slashes = "//" if self.path.startswith("/") else ""
            return f"{self.scheme}:{slashes}{self.host}{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class _Scheme:
    """What a scheme takes. ``port`` 0: it has a path and neither host nor port."""

    port: int
    options: tuple[str, ...]
    max_message: int = DEFAULT_MAX_MESSAGE
    largest_message: int = _LARGEST_DATAGRAM


_COMMON = ("max_message", "profile", "share", "strings")
_STREAM = (*_COMMON, "biflow")
_DATAGRAM = ("pace", "segmentation")
_TLS = ("ca", "cert", "key", "name")
SCHEMES: Mapping[str, _Scheme] = {
    "ipfix": _Scheme(IPFIX_PORT, (*_STREAM, *_DATAGRAM)),
    "netflow9": _Scheme(NETFLOW9_PORT, (*_COMMON, *_DATAGRAM)),
    "ipfix+tcp": _Scheme(IPFIX_PORT, _STREAM, DEFAULT_STREAM_MESSAGE, _LARGEST_MESSAGE),
    "ipfix+tls": _Scheme(
        IPFIX_TLS_PORT, (*_STREAM, *_TLS), DEFAULT_STREAM_MESSAGE, _LARGEST_MESSAGE
    ),
    "file": _Scheme(0, _STREAM, DEFAULT_STREAM_MESSAGE, _LARGEST_MESSAGE),
}
#: Those of ``export.targets``.
OTHER_SCHEMES = ("json", "kafka", "zmq")


_EXPECTED = {
    "ipfix": "expected ipfix://HOST:PORT, IPv6 addresses in brackets",
    "file": "expected file:///PATH, an absolute path and no host",
}


def parse_destination(text: str) -> Destination:
    """``text`` as a Destination; ConfigError says what is wrong with it."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _wrong(text, f"{error}; {_EXPECTED['ipfix']}") from None
    scheme = SCHEMES.get(parts.scheme)
    if scheme is None:
        known = ", ".join((*SCHEMES, *OTHER_SCHEMES))
        raise _wrong(text, f"{_EXPECTED['ipfix']}; known schemes: {known}")
    options = {"max_message": scheme.max_message, **_options(text, parts, scheme)}
    if not scheme.port:
        return Destination(parts.scheme, "", 0, path=_path(text, parts), **options)
    expected = _EXPECTED["ipfix"].replace("ipfix:", f"{parts.scheme}:", 1)
    if not host or parts.path not in ("", "/") or parts.fragment:
        raise _wrong(text, expected)
    if parts.username is not None or port == 0 or not _is_host(host):
        raise _wrong(text, expected)
    return Destination(parts.scheme, host, port or scheme.port, **options)


def _wrong(text: str, reason: str) -> ConfigError:
    return ConfigError(f"destination {text!r}: {reason}")


def _path(text: str, parts: SplitResult) -> str:
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise _wrong(text, _EXPECTED["file"])
    if parts.fragment:
        raise _wrong(text, f"{_EXPECTED['file']}; write # as %23")
    return path


def _is_host(text: str) -> bool:
    """An address, or what may be a name: whether one has it is for the resolver to say."""
    try:
        text.encode("idna")  # as the resolver would: labels of 1 to 63 octets
    except UnicodeError:
        return False
    return not any(c.isspace() for c in text)


def _options(text: str, parts: SplitResult, scheme: _Scheme) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for piece in filter(None, parts.query.split("&")):
        key, _, value = piece.partition("=")
        if key not in scheme.options:
            raise _wrong(text, _why_not(key, parts.scheme, scheme))
        if key in options:
            raise _wrong(text, f"{key} is given twice")
        # Not parse_qsl, which takes the + in a path for a space.
        options[key] = _value(text, key, unquote(value), scheme)
    if parts.scheme == "ipfix+tls" and not ("cert" in options and "key" in options):
        raise _wrong(text, "cert=FILE and key=FILE are needed: both sides show a certificate")
    return options


def _why_not(key: str, name: str, scheme: _Scheme) -> str:
    if key == "biflow" and name == "netflow9":
        return "NetFlow v9 has no reverse elements for biflow: use an ipfix scheme"
    if key in _TLS:
        return f"{key} is for ipfix+tls only"
    if key in _DATAGRAM:
        return f"{key} is for datagrams (ipfix, netflow9) only: a stream slows down by itself"
    return f"unknown option {key}; known: {', '.join(sorted(scheme.options))}"


def _value(text: str, key: str, value: str, scheme: _Scheme) -> Any:
    if key == "max_message":
        return _number(text, key, value, _LEAST_MESSAGE, scheme.largest_message)
    if key == "pace":
        return _number(text, key, value, 0, 1 << 40)
    if key == "biflow":
        return _choice(text, key, value, BIFLOWS) == "rfc5103"
    if key == "segmentation":
        return _choice(text, key, value, ("on", "off")) == "on"
    if key == "share":
        return _choice(text, key, value, SHARES)
    if key == "strings":
        return _choice(text, key, value, STRINGS)
    if not value:
        raise _wrong(text, f"{key} is empty")
    return value


def _number(text: str, key: str, value: str, low: int, high: int) -> int:
    if not (value.isascii() and value.isdecimal()) or not low <= int(value) <= high:
        raise _wrong(text, f"{key} must be {low} to {high}")
    return int(value)


def _choice(text: str, key: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise _wrong(text, f"{key} must be {' or '.join(known)}")
    return value
