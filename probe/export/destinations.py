"""Destinations of IPFIX messages and of NetFlow v9: over UDP, TCP and TLS, and into files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe.export.kind import (
    DestinationKind,
    Option,
    absolute_path,
    choice,
    host_and_port,
    number,
)
from probe.export.transports.destination import (
    DEFAULT_MAX_MESSAGE,
    DEFAULT_PACE,
    DEFAULT_STREAM_MESSAGE,
    Destination,
)

if TYPE_CHECKING:
    from probe.export.sink import Sink
    from probe.export.sink_factory import SinkFactory

_LEAST_MESSAGE = 512
_LARGEST_DATAGRAM = 65507
_LARGEST_MESSAGE = 65535  # RFC 7011 section 3.1: Length has 16 bits


def _max_message(largest: int, default: int) -> Option:
    return number(
        "max_message", _LEAST_MESSAGE, largest, "octets of the longest message", str(default)
    )


_COMMON = (
    Option("profile", "NAME", "the profile of this destination", "that of --profile"),
    choice(
        "share",
        {"hash": "hash", "round-robin": "round-robin"},
        "divide flows among all destinations with the same value",
    ),
    choice(
        "strings",
        {"plain": "plain", "full": "full"},
        "plain: replace quotation marks and backslashes in names, for collectors that write JSON "
        "without escapes",
        "plain for profile=goflow2, else full",
    ),
)
_BIFLOW = choice("biflow", {"rfc5103": True}, "one record for both directions of a flow (RFC 5103)")
_DATAGRAM = (
    number("pace", 0, 1 << 40, "octets a second; 0 is without a limit", str(DEFAULT_PACE)),
    choice(
        "segmentation",
        {"on": True, "off": False},
        "hand many messages to the kernel in one system call; a capture on this host then shows "
        "them as one packet",
        "off; on with pace=0",
    ),
)
_CERTIFICATES = "both sides show a certificate"
_TLS = (
    Option("cert", "FILE", _CERTIFICATES, is_required=True),
    Option("key", "FILE", "the key of cert", is_required=True),
    Option("ca", "FILE", "the authority of the collector's certificate", "the system's"),
    Option("name", "NAME", "the name that the collector's certificate must hold", "HOST"),
)
_DATAGRAM_MESSAGE = _max_message(_LARGEST_DATAGRAM, DEFAULT_MAX_MESSAGE)
_STREAM_MESSAGE = _max_message(_LARGEST_MESSAGE, DEFAULT_STREAM_MESSAGE)
_STREAM_DEFAULTS = {"max_message": DEFAULT_STREAM_MESSAGE}


def _open_udp(destination: Destination, factory: SinkFactory) -> Sink:
    from probe.export.transports.udp import UdpSender

    look_up_s = factory.config.template_refresh
    return factory.message_sink(destination, lambda one: UdpSender(one, look_up_s=look_up_s))


def _open_tcp(destination: Destination, factory: SinkFactory) -> Sink:
    from probe.export.transports.tcp import TcpSender

    look_up_s = factory.config.template_refresh
    return factory.message_sink(destination, lambda one: TcpSender(one, look_up_s=look_up_s))


def _open_tls(destination: Destination, factory: SinkFactory) -> Sink:
    from probe.export.transports.tls import TlsSender  # ssl takes 5 MB of memory

    look_up_s = factory.config.template_refresh
    return factory.message_sink(destination, lambda one: TlsSender(one, look_up_s=look_up_s))


def _open_file(destination: Destination, factory: SinkFactory) -> Sink:
    from probe.export.transports.file import FileSender

    return factory.message_sink(destination, FileSender)


IPFIX = DestinationKind(
    scheme="ipfix",
    form="ipfix://HOST:PORT, IPv6 addresses in brackets",
    help="IPFIX over UDP (RFC 7011)",
    port=4739,
    locate=host_and_port,
    options=(*_COMMON, _BIFLOW, _DATAGRAM_MESSAGE, *_DATAGRAM),
    open=_open_udp,
)
NETFLOW9 = DestinationKind(
    scheme="netflow9",
    form="netflow9://HOST:PORT, IPv6 addresses in brackets",
    help="NetFlow v9 over UDP (RFC 3954)",
    port=2055,
    locate=host_and_port,
    options=(*_COMMON, _DATAGRAM_MESSAGE, *_DATAGRAM),
    defaults={"is_netflow9": True},
    refusals={"biflow": "NetFlow v9 has no reverse elements for biflow: use an ipfix scheme"},
    open=_open_udp,
)
IPFIX_TCP = DestinationKind(
    scheme="ipfix+tcp",
    form="ipfix+tcp://HOST:PORT, IPv6 addresses in brackets",
    help="IPFIX over TCP; up to 16 MiB wait while the collector is away",
    port=4739,
    locate=host_and_port,
    options=(*_COMMON, _BIFLOW, _STREAM_MESSAGE),
    defaults=_STREAM_DEFAULTS,
    open=_open_tcp,
)
IPFIX_TLS = DestinationKind(
    scheme="ipfix+tls",
    form="ipfix+tls://HOST:PORT?cert=FILE&key=FILE, IPv6 addresses in brackets",
    help="IPFIX over TLS; both sides show a certificate",
    port=4740,
    locate=host_and_port,
    options=(*_COMMON, _BIFLOW, _STREAM_MESSAGE, *_TLS),
    defaults=_STREAM_DEFAULTS,
    open=_open_tls,
)
FILE = DestinationKind(
    scheme="file",
    form="file:///PATH, an absolute path and no host",
    help="a file of IPFIX messages (RFC 5655), for `sockflow collect --read` and Wireshark",
    locate=absolute_path,
    options=(*_COMMON, _BIFLOW, _STREAM_MESSAGE),
    defaults=_STREAM_DEFAULTS,
    open=_open_file,
)
