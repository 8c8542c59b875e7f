"""Destinations of JSON objects: lines in a file or on standard output, and messages of Kafka."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from probe.export.kind import DestinationKind, Option, absolute_path, choice, end_point
from probe.export.transports.destination import STDOUT, Destination
from probe.jsonlines.kafka_settings import KAFKA_SETTINGS

if TYPE_CHECKING:
    from probe.export.sink import Sink
    from probe.export.sink_factory import SinkFactory

_KAFKA_PORT = 9092
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_FORMAT = choice(
    "format",
    {"agent": "agent", "ecs": "ecs"},
    "names of members: those of ntop's agents, or Elastic Common Schema",
    "agent",
)


def _locate_lines(location: str) -> Mapping[str, Any]:
    if location == STDOUT:
        return {"path": STDOUT}
    if not location.startswith("///"):
        raise ValueError
    return absolute_path(location)


def _locate_topic(location: str) -> Mapping[str, Any]:
    brokers, _, topic = location.removeprefix("//").partition("/")
    if not location.startswith("//") or topic in (".", "..") or not _TOPIC.fullmatch(topic):
        raise ValueError
    ends = [end_point(broker) for broker in brokers.split(",")]
    hosts = ",".join(_join(end["host"], end["port"] or _KAFKA_PORT) for end in ends)
    return {"host": hosts, "path": f"/{topic}"}


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _open_json(destination: Destination, factory: SinkFactory) -> Sink:
    from probe.jsonlines.json import JsonSink

    return JsonSink(destination, factory.config, factory.owners)


def _open_kafka(destination: Destination, factory: SinkFactory) -> Sink:
    from probe.jsonlines.kafka import KafkaSink  # librdkafka takes 12 MB of memory

    return KafkaSink(destination, factory.config, factory.owners)


JSON = DestinationKind(
    scheme="json",
    form="json:- or json:///PATH, an absolute path",
    help="JSON lines of flows and events, to standard output or to a file",
    locate=_locate_lines,
    options=(_FORMAT,),
    open=_open_json,
)
KAFKA = DestinationKind(
    scheme="kafka",
    form="kafka://BROKER:PORT,BROKER:PORT/TOPIC",
    help="the same objects as messages of a topic, keyed by flow",
    extra="kafka",
    locate=_locate_topic,
    options=(
        _FORMAT,
        Option("config", "FILE", "a file with settings of librdkafka, passwords among them"),
        *(Option(name, "VALUE", "a setting of librdkafka") for name in sorted(KAFKA_SETTINGS)),
    ),
    open=_open_kafka,
)
