"""Parses the address to listen on: ``HOST:PORT`` or ``ipfix+tls://HOST:PORT?cert=FILE``."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from probe.errors import ConfigError

_DATAGRAMS, _TCP, _TLS = ("ipfix", "netflow9"), "ipfix+tcp", "ipfix+tls"
_FILES = ("cert", "key", "ca")
_EXAMPLE = "expected HOST:PORT (UDP), ipfix+tcp://HOST:PORT or " \
    "ipfix+tls://HOST:PORT?cert=FILE&key=FILE&ca=FILE, IPv6 addresses in brackets"  # fmt: skip


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen on. For TLS, ``cert``, ``key`` and ``ca`` are paths of PEM files."""

    scheme: str
    host: str
    port: int
    cert: str = ""
    key: str = ""
    ca: str = ""

    @property
    def is_datagram(self) -> bool:
        return self.scheme in _DATAGRAMS

    @property
    def is_tls(self) -> bool:
        return self.scheme == _TLS

    def __str__(self) -> str:
        return f"{self.host} port {self.port}"


def parse_listen(text: str) -> Listen:
    """Returns the address that ``text`` means. UDP takes both protocols.

    Raises ConfigError, which says what is wrong with ``text``.
    """
    try:
        parts = urlsplit(text if "://" in text else f"ipfix://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"--listen {text!r}: {error}; {_EXAMPLE}") from None
    if parts.scheme not in (*_DATAGRAMS, _TCP, _TLS) or not host or port is None:
        raise ConfigError(f"--listen {text!r}: {_EXAMPLE}")
    if parts.path or parts.fragment or parts.username is not None:
        raise ConfigError(f"--listen {text!r}: {_EXAMPLE}")
    return Listen(parts.scheme, host, port, **_files(text, parts.scheme, parts.query))


def _files(text: str, scheme: str, query: str) -> dict[str, str]:
    files = dict(parse_qsl(query, keep_blank_values=True))
    known = _FILES if scheme == _TLS else ()
    if unknown := [name for name in files if name not in known or not files[name]]:
        raise ConfigError(f"--listen {text!r}: {unknown[0]} is no option here; {_EXAMPLE}")
    if scheme == _TLS and not files.get("cert"):
        raise ConfigError(f"--listen {text!r}: TLS needs the server's certificate: ?cert=FILE")
    return files
