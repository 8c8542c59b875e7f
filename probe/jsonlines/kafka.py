"""Sends the JSON of ``json:`` to a topic of Kafka, keyed by flow: ``kafka://BROKER,BROKER/TOPIC``.

The threads of librdkafka send. This module fills its bounded queue, and never waits for room in it.
The key is a hash of the Flow Key that is the same from both ends. So all messages about a flow,
from every probe that saw it, are in one partition and in order.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from probe.config import RunConfig
from probe.errors import ConfigError
from probe.export.share import flow_hash
from probe.export.transports.destination import Destination
from probe.export.transports.statistics import SendStatistics
from probe.flow.owner import OwnerTable
from probe.jsonlines.kafka_settings import KAFKA_SETTINGS
from probe.jsonlines.local_remote import flow_key
from probe.jsonlines.sink import ObjectSink
from probe.opening import warn_if_readable

_POLL_S = 0.1
_DEFAULTS = {
    "client.id": "sockflow",
    "enable.idempotence": True,
    "linger.ms": 50,
    "queue.buffering.max.kbytes": 65536,
    "queue.buffering.max.messages": 100000,
    "message.timeout.ms": 120000,
}
_SECRETS = {"sasl.password", "ssl.key.password"}

_log = logging.getLogger(__name__)


class KafkaSink(ObjectSink):
    """A sink of JSON messages for Kafka.

    Raises ConfigError if confluent-kafka is missing or refuses a setting. The statistics count each
    message as a record. A message is dropped if the queue has no room for it, or if it is not
    delivered within ``message.timeout.ms``.
    """

    def __init__(self, target: Destination, config: RunConfig, owners: OwnerTable) -> None:
        super().__init__(target, config, owners)
        self._topic = target.path.removeprefix("/")
        self._statistics = SendStatistics()
        self._accepted = _Amount()  # into the queue of librdkafka
        self._failed = _Amount()
        self._is_down = self._is_overflowing = False
        self._producer = self._open(target)

    @property
    def statistics(self) -> SendStatistics:
        return self._statistics

    @property
    def is_down(self) -> bool:
        return self._is_down

    @property
    def is_reliable(self) -> bool:
        return not self._is_down

    @property
    def backlog(self) -> int:
        """Octets that wait, estimated from the number of messages."""
        return len(self._producer) * max(1, self._accepted.octets // max(1, self._accepted.lines))

    def pump(self, now: float) -> float | None:
        """Reads the reports of deliveries; librdkafka itself needs no call."""
        self._producer.poll(0)
        self._count_sent()
        return now + _POLL_S if len(self._producer) else None

    def flush(self, deadline: float) -> bool:
        left = self._producer.flush(max(0.0, deadline - time.monotonic()))
        self._count_sent()
        return not left

    def close(self) -> None:
        self._producer.purge()
        self._producer.flush(1.0)  # to read the reports of purged messages
        self._count_sent()

    def _open(self, target: Destination) -> Any:
        from confluent_kafka import KafkaException, Producer

        settings = {
            **_DEFAULTS,
            **_read_settings(target),
            "bootstrap.servers": target.host,
            "delivery.report.only.error": True,
            "error_cb": self._note_error,
            "logger": _Quiet(),
        }
        try:
            return Producer(settings)
        except KafkaException as error:
            raise ConfigError(f"destination {target}: {error.args[0].str()}") from None

    def _put(
        self, lines: list[str], columns: dict[str, Any], packets: int = 0, octets: int = 0
    ) -> None:
        keys: Sequence[bytes | None] = _keys(columns) or [None] * len(lines)
        for line, key in zip(lines, keys, strict=True):
            try:
                self._producer.produce(self._topic, line, key, on_delivery=self._note_delivery)
            except BufferError:
                self._count_lost(line)
                self._warn_full()
            else:
                self._accepted.add(len(line), packets > 0)
        self._producer.poll(0)

    def _note_error(self, error: Any) -> None:
        """Notes an error for the log. librdkafka tries again by itself."""
        self._statistics.errors += 1
        if not self._is_down:
            self._is_down = True
            self._statistics.bursts += 1
            _log.warning("%s: %s; trying again", self.name, error.str())

    def _note_delivery(self, error: Any, message: Any) -> None:
        """Counts a message that was not delivered. It is called for failures only."""
        if error is not None:
            line = message.value().decode()
            self._failed.add(len(line), self._count_lost(line))

    def _count_lost(self, line: str) -> bool:
        """Counts a lost message. Returns True if it held a flow."""
        packets, octets = _traffic(json.loads(line))
        lost = self._statistics
        lost.dropped_messages += 1
        lost.dropped_records += 1
        lost.dropped_flow_records += packets > 0
        lost.dropped_packets += packets
        lost.dropped_octets += octets
        return packets > 0

    def _warn_full(self) -> None:
        if not self._is_overflowing:
            self._is_overflowing = True
            text = "%s: %d messages wait already; what comes is dropped until there is room"
            _log.warning(text, self.name, len(self._producer))

    def _count_sent(self) -> None:
        """Counts as sent what was accepted, has not failed and no longer waits."""
        accepted, sent = self._accepted, self._statistics
        waiting = len(self._producer)
        arrived = accepted.lines - self._failed.lines - waiting
        if arrived > sent.sent_records:
            self._is_down = self._is_overflowing = False
            # The share of flows that still wait is estimated; the counts are exact once none waits.
            share = arrived / max(1, accepted.lines - self._failed.lines)
            sent.sent_messages = sent.sent_records = arrived
            sent.sent_octets = int((accepted.octets - self._failed.octets) * share)
            sent.sent_flow_records = int((accepted.flows - self._failed.flows) * share)


class _Amount:
    def __init__(self) -> None:
        self.lines = self.octets = self.flows = 0

    def add(self, octets: int, is_flow: bool) -> None:
        self.lines += 1
        self.octets += octets
        self.flows += is_flow


class _Quiet(logging.Logger):
    """Drops the log of librdkafka, because ``error_cb`` reports the errors as well."""

    def __init__(self) -> None:
        super().__init__("sockflow.kafka", logging.CRITICAL)


def _keys(columns: Mapping[str, Any]) -> list[bytes] | None:
    """Returns a key of 16 hexadecimal digits for each flow, or None if the rows are not flows."""
    if "remote_port" not in columns:
        return None
    return [b"%016x" % word for word in flow_hash(flow_key(columns)).tolist()]


def _traffic(found: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the packets and octets in the object of a flow; 0 for all other objects."""
    if found.get("EVENT_TYPE") == "FLOW":
        return (
            found["PKTS_SENT"] + found["PKTS_RCVD"],
            found["BYTES_SENT"] + found["BYTES_RCVD"],
        )
    if found.get("event", {}).get("dataset") == "sockflow.flow":
        return found["network"]["packets"], found["network"]["bytes"]
    return 0, 0


def _read_settings(target: Destination) -> dict[str, str]:
    """Returns the settings of the file that ``config`` names, overridden by those of the URL."""
    settings: dict[str, str] = {}
    if path := target.options.get("config"):
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"destination {target}: cannot read {path}: {error}") from None
        for line in filter(None, (line.strip() for line in text.splitlines())):
            key, equals, value = line.partition("=")
            if line.startswith("#"):
                continue
            if not equals or key.strip() not in KAFKA_SETTINGS | _SECRETS:
                raise ConfigError(f"destination {target}: {path}: unknown setting {key.strip()!r}")
            settings[key.strip()] = value.strip()
        if settings.keys() & _SECRETS:
            warn_if_readable(path, "a password")
    return settings | {
        key: value for key, value in target.options.items() if "." in key or key == "acks"
    }
