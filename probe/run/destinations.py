"""Destinations that take flows, events, sockets and the counters of interfaces, with names as
strings: each a module that is imported when it is used."""

from __future__ import annotations

from probe.config import RunConfig
from probe.errors import ConfigError
from probe.export.self_report import Metering
from probe.export.sink import EventSink
from probe.export.transports.destination import Destination
from probe.flow.owner import OwnerTable
from probe.interfaces.names import InterfaceList


def open_sink(
    target: Destination,
    config: RunConfig,
    owners: OwnerTable,
    metering: Metering,
    interfaces: InterfaceList,
) -> EventSink:
    """The sink for ``target``. ConfigError: a file or package that it needs cannot be used."""
    match target.scheme:
        case "json":
            from probe.jsonlines.json import JsonSink

            return JsonSink(target, config, owners)
        case "kafka":
            from probe.jsonlines.kafka import KafkaSink  # librdkafka is 12 MB

            return KafkaSink(target, config, owners)
        case "zmq":
            from probe.ntopng.sink import ZmqSink

            return ZmqSink(target, config, owners, metering, interfaces)
        case _:
            raise ConfigError(f"destination {target}: no sink for this scheme")
