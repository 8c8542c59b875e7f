"""Defines the destination for ntopng: a ZMQ socket that connects or binds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe.export.kind import DestinationKind, Option, choice, host_and_port
from probe.export.transports.destination import Destination

if TYPE_CHECKING:
    from probe.export.sink import Sink
    from probe.export.sink_factory import SinkFactory


def _check(destination: Destination) -> None:
    if destination.host == "*" and destination.options.get("bind") != "1":
        raise ValueError("* is for bind=1: a probe that connects must know where")


def _open(destination: Destination, factory: SinkFactory) -> Sink:
    from probe.ntopng.sink import ZmqSink  # zmq has threads and libraries of its own

    return ZmqSink(
        destination, factory.config, factory.owners, factory.metering, factory.interfaces
    )


ZMQ = DestinationKind(
    scheme="zmq",
    form="zmq://HOST:PORT or zmq://*:PORT?bind=1, IPv6 addresses in brackets",
    help="ntopng over ZMQ",
    extra="ntopng",
    port=5556,
    locate=host_and_port,
    options=(
        choice("bind", {"0": "0", "1": "1"}, "1: listen, so that ntopng connects", "0: connect"),
        Option("curve", "FILE", "a file with the keys of CURVE, which encrypts", "plain"),
        choice("flows", {"tlv": "tlv", "json": "json"}, "how flows are encoded", "tlv"),
    ),
    check=_check,
    open=_open,
)
