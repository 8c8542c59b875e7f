"""Destinations that are not of IPFIX: ``json:-``, ``json:///PATH``, ``kafka://BROKER,BROKER/TOPIC``
and ``zmq://HOST:PORT``. As in ``export.destination`` only the text is judged here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit

from probe.errors import ConfigError
from probe.export.transports.destination import Destination, parse_destination

KAFKA_PORT = 9092
ZMQ_PORT = 5556
#: The path of a Destination that is standard output.
STDOUT = "-"

#: Settings of librdkafka that a Kafka URL may carry; ``config=FILE`` may hold all of them.
_SETTINGS = """
    acks batch.size client.id compression.codec compression.level compression.type
    enable.ssl.certificate.verification linger.ms message.max.bytes message.timeout.ms
    queue.buffering.max.kbytes queue.buffering.max.messages reconnect.backoff.max.ms
    request.timeout.ms sasl.mechanism sasl.mechanisms sasl.username security.protocol
    socket.keepalive.enable socket.timeout.ms ssl.ca.location ssl.certificate.location
    ssl.endpoint.identification.algorithm ssl.key.location
"""
KAFKA_SETTINGS = frozenset(_SETTINGS.split())
_FORMATS = ("agent", "ecs")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_EXPECTED = {
    "json": "expected json:- or json:///PATH, an absolute path",
    "kafka": "expected kafka://BROKER:PORT,BROKER:PORT/TOPIC",
    "zmq": "expected zmq://HOST:PORT or zmq://*:PORT?bind=1, IPv6 addresses in brackets",
}

#: What an option must be: one of these, or any text that is not empty.
_Known = Mapping[str, tuple[str, ...]]


def parse_target(text: str) -> Destination:
    """As ``parse_destination``, of all schemes."""
    parse = _PARSERS.get(text.partition(":")[0].lower())
    return parse(text) if parse else parse_destination(text)


def _parse_json(text: str) -> Destination:
    location, options = _split(text, {"format": _FORMATS})
    path = unquote(location.removeprefix("//"))
    is_file = location.startswith("///") and not path.endswith("/") and "\0" not in path
    if path != STDOUT and not is_file:
        raise _wrong(text, _EXPECTED["json"])
    if "#" in location:
        raise _wrong(text, f"{_EXPECTED['json']}; write # as %23")
    return Destination("json", "", 0, path=path, options=options)


def _parse_kafka(text: str) -> Destination:
    settings: _Known = dict.fromkeys(sorted(KAFKA_SETTINGS), ())
    location, options = _split(text, {"config": (), "format": _FORMATS, **settings})
    brokers, _, topic = location.removeprefix("//").partition("/")
    if not location.startswith("//") or topic in (".", "..") or not _TOPIC.fullmatch(topic):
        raise _wrong(text, _EXPECTED["kafka"])
    ends = [_end(text, broker, KAFKA_PORT) for broker in brokers.split(",")]
    hosts = ",".join(_join(host, port) for host, port in ends)
    return Destination("kafka", hosts, 0, path=f"/{topic}", options=options)


def _parse_zmq(text: str) -> Destination:
    known: _Known = {"bind": ("0", "1"), "curve": (), "flows": ("tlv", "json")}
    location, options = _split(text, known)
    host, port = _end(text, location.removeprefix("//").removesuffix("/"), ZMQ_PORT)
    if not location.startswith("//"):
        raise _wrong(text, _EXPECTED["zmq"])
    if host == "*" and options.get("bind") != "1":
        raise _wrong(text, "* is for bind=1: who connects must know where")
    return Destination("zmq", host, port, options=options)


_PARSERS: Mapping[str, Callable[[str], Destination]] = {
    "json": _parse_json,
    "kafka": _parse_kafka,
    "zmq": _parse_zmq,
}


def _split(text: str, known: _Known) -> tuple[str, dict[str, str]]:
    """What is between scheme and query, and the options of the query."""
    location, _, query = text.partition(":")[2].partition("?")
    options: dict[str, str] = {}
    for piece in filter(None, query.split("&")):
        key, _, value = piece.partition("=")
        if key not in known:
            raise _wrong(text, f"unknown option {key}; known: {', '.join(sorted(known))}")
        if key in options:
            raise _wrong(text, f"{key} is given twice")
        value = unquote(value)
        if known[key] and value not in known[key]:
            raise _wrong(text, f"{key} must be {' or '.join(known[key])}")
        if not value:
            raise _wrong(text, f"{key} is empty")
        options[key] = value
    return location, options


def _end(text: str, end: str, default_port: int) -> tuple[str, int]:
    expected = _EXPECTED[text.partition(":")[0].lower()]
    try:
        parts = urlsplit(f"//{end}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _wrong(text, f"{error}; {expected}") from None
    is_plain = parts.netloc == end and parts.username is None
    if not host or port == 0 or not is_plain or any(c.isspace() for c in host):
        raise _wrong(text, expected)
    return host, port or default_port


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _wrong(text: str, reason: str) -> ConfigError:
    return ConfigError(f"destination {text!r}: {reason}")
