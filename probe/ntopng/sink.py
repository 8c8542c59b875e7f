"""Sends flows as TLV, and other topics as JSON, to ntopng over ZMQ.

``docs/collectors/ntopng.md`` has the user's view. Messages are numbered and wait until a subscriber
takes them. Without a subscriber, flows wait up to the size of the queue. Status, counters and names
do not wait: a new subscriber gets the present ones.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from probe.config import RunConfig
from probe.export.self_report import Metering
from probe.export.transports.destination import Destination
from probe.export.transports.reach import Retry
from probe.export.transports.statistics import SendStatistics
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows
from probe.interfaces.names import InterfaceList
from probe.jsonlines.local_remote import event_columns, flow_columns
from probe.jsonlines.owner_objects import POD_KEYS
from probe.mapping import load_elements
from probe.ntopng import topics
from probe.ntopng.agent_objects import NtopngLines
from probe.ntopng.frames import (
    COUNTER,
    EVENT,
    FLOW,
    JSON,
    LISTENING_PORTS,
    SNMP_IFACES,
    TEMPLATE,
)
from probe.ntopng.outbox import Outbox
from probe.ntopng.ports import ListeningPorts
from probe.ntopng.status import Status
from probe.ntopng.tlv import TlvEncoder, TlvPayload
from probe.units import octets

if TYPE_CHECKING:
    from probe.interfaces.interface import Interface

#: ntopng drops a probe that sends nothing for ten seconds.
STATUS_S = 3.0
_COUNTERS_S = 5.0
_PORTS_S = 5.0
#: Interval for attempts at a full subscriber, and for checks for new subscribers.
_RETRY_S, _LOOK_S = 0.01, 0.25
#: Time without a subscriber after which a warning is logged.
_PATIENCE_S = 5.0
_DOCUMENTATION = "192.0.2.1"  # RFC 5737: nothing is sent, but a route is chosen


class ZmqSink:
    """An ``EventSink`` for ntopng.

    Raises ConfigError if the package, the key file or the address cannot be used.
    """

    pairs_directions = True

    def __init__(
        self,
        target: Destination,
        config: RunConfig,
        owners: OwnerTable,
        metering: Metering,
        interfaces: InterfaceList,
    ) -> None:
        from probe.ntopng.publisher import Publisher

        self.name = str(target)
        self.address = exporter_address(target.host)
        source_id = _source_id(target, config.odid)
        self._interfaces = interfaces
        self._config = config
        self._encoder = TlvEncoder(owners, config.privacy, self.address)
        self._lines: NtopngLines | None = None
        if target.options.get("flows") == "json":
            exporter = {"EXPORTER_IPV4_ADDRESS": self.address}
            self._lines = NtopngLines(owners, config.privacy, exporter, POD_KEYS["zmq"])
        self._ports = ListeningPorts(owners, config.privacy)
        self.outbox = Outbox(source_id)
        self._status = Status(config, metering, self.outbox.statistics, source_id, self.address)
        self._retry = Retry(target, self.outbox.statistics)
        self._template = topics.encode_json(topics.template_fields(load_elements(config.pen)))
        self._samples = 0
        self._status_at = self._counters_at = self._ports_at = self._template_at = 0.0
        self._lonely_since: float | None = None
        self._publisher = Publisher(target)

    @property
    def statistics(self) -> SendStatistics:
        return self.outbox.statistics

    @property
    def takes_events(self) -> bool:
        return self._lines is not None

    @property
    def is_down(self) -> bool:
        """True if no peer subscribes to flows."""
        return not self._publisher.is_wanted(FLOW)

    @property
    def is_reliable(self) -> bool:
        return not self.is_down

    @property
    def backlog(self) -> int:
        return self.outbox.octets

    def send(self, records: Rows, now_s: float) -> None:
        self._status.count(records)
        if self._lines is None:
            for payload in self._encoder.encode(records):
                self.outbox.add_flows(payload)
        elif len(records):
            columns = flow_columns(records)
            traffic = zip(
                (columns["tx_packets"] + columns["rx_packets"]).tolist(),
                (columns["tx_octets"] + columns["rx_octets"]).tolist(),
                strict=True,
            )
            for line, counts in zip(self._lines.flows(columns), traffic, strict=True):
                self.outbox.add_flows(TlvPayload(line.encode(), 1, *counts), JSON)

    def send_events(self, events: Rows, now_s: float) -> None:
        """Takes events, but only with flows=json.

        TLV has no events, and the community edition drops flows as JSON.
        """
        if self._lines is None or not len(events) or self.is_down:
            return
        chosen = events.take(
            np.flatnonzero(events["ip_version"] != 0)
        )  # without the events of containers
        if len(chosen):
            for line in self._lines.events(event_columns(chosen)):
                self.outbox.add_json(FLOW, line.encode())

    def send_sockets(self, sockets: Rows, now_s: float) -> None:
        self._ports.observe(sockets)

    def send_interfaces(self, links: Sequence[Interface], now_s: float) -> None:
        """Sends counters at most every five seconds, and only to present subscribers.

        That loses nothing, because counters are totals. The last counters of a link that is gone
        are sent at once.
        """
        present = [link for link in links if not link.is_gone]
        if present:
            self._status.speed = max(link.speed for link in present)
        if not self._publisher.is_wanted(COUNTER):
            return
        if now_s < self._counters_at:
            links = [link for link in links if link.is_gone]
        elif present:
            self._counters_at = now_s + _COUNTERS_S
        self._samples += 1
        for link in links:
            self._tell(COUNTER, topics.counter_object(link, self.address, self._samples))

    def pump(self, now: float) -> float | None:
        is_new = self._publisher.poll()
        self._watch(now)
        if is_new or now >= self._template_at:
            self._greet(now)
        if now >= self._status_at:
            self._status_at = now + STATUS_S
            self._tell(EVENT, self._status.read(time.time()))
        if self._ports.has_changed and now >= self._ports_at:
            self._tell_ports(now)
        if self.is_down:
            return now + _LOOK_S
        if not self.outbox.send(self._publisher.send):
            return now + _RETRY_S
        return self._status_at

    def finish(self, now_s: float) -> None:
        """Queues the final figures."""
        self._tell(EVENT, self._status.read(now_s))

    def forget(self, owners: list[int]) -> None:
        self._encoder.forget(owners)
        if self._lines is not None:
            self._lines.forget(owners)

    def announce_interfaces(self) -> None:
        described = self._interfaces.described()
        self._tell(SNMP_IFACES, topics.interface_names(self.address, described))

    def local_address(self) -> tuple[str, int] | None:
        return self._publisher.local_address

    def summary(self) -> str:
        sent = self.statistics
        return (
            f"{sent.sent_messages} messages ({octets(sent.sent_octets)}) with "
            f"{sent.sent_flow_records} flows, both directions in one"
        )

    def flush(self, deadline: float) -> bool:
        while (due := self.pump(now := time.monotonic())) is not None:
            if not self.outbox:
                return True
            if now >= deadline:
                break
            time.sleep(max(0.0, min(due, deadline, now + _RETRY_S) - now))
        return False

    def close(self) -> None:
        self.outbox.drop()
        self._publisher.close()

    def _greet(self, now: float) -> None:
        """Queues all that a new subscriber has missed."""
        self._template_at = now + self._config.template_refresh
        if self._publisher.is_wanted(TEMPLATE):
            self.outbox.add_json(TEMPLATE, self._template)
        self.announce_interfaces()
        self._tell_ports(now)
        self._status_at = self._counters_at = 0.0

    def _tell_ports(self, now: float) -> None:
        self._ports_at = now + _PORTS_S
        self._tell(LISTENING_PORTS, self._ports.read(self.address))

    def _tell(self, topic: str, value: object) -> None:
        if self._publisher.is_wanted(topic):
            self.outbox.add_json(topic, topics.encode_json(value))

    def _watch(self, now: float) -> None:
        """Warns once if there is no subscriber or the handshake fails."""
        failure = self._publisher.take_failure()
        if not self.is_down:
            self._lonely_since = None
            self._retry.works(now)
            self._retry.notice_recovery(now)
            return
        since = self._lonely_since = now if self._lonely_since is None else self._lonely_since
        if failure:
            self._retry.fail(failure, now)
        elif now - since >= _PATIENCE_S and not self._retry.is_failing:
            self._retry.fail("no ntopng subscribes to flows", now)


def exporter_address(host: str) -> str:
    """Returns our IPv4 address on the route to ``host``.

    If ``host`` is this host, or not an IPv4 address, it is the address on the default route.
    """
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.version == 4 and not address.is_loopback and not address.is_unspecified:
            return _route(host) or _route(_DOCUMENTATION) or "127.0.0.1"
    return _route(_DOCUMENTATION) or "127.0.0.1"


def _route(host: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        try:
            found.connect((host, 9))
        except OSError:
            return ""
        return str(found.getsockname()[0])


def _source_id(target: Destination, odid: int) -> int:
    """Returns a source id that differs between probes, and is the same after a restart.

    ntopng notices a restart by the message ids.
    """
    return zlib.crc32(f"{os.uname().nodename} {odid} {target}".encode())
