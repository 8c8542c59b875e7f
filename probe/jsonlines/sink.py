"""Provides what the sinks of JSON objects share: lines in the format of the destination."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from probe.config import RunConfig
from probe.export.transports.destination import Destination
from probe.export.transports.statistics import SendStatistics
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows
from probe.jsonlines.agent_objects import AgentLines
from probe.jsonlines.ecs import EcsLines
from probe.jsonlines.interface_objects import interface_object
from probe.jsonlines.layouts import ObjectLines
from probe.jsonlines.local_remote import event_columns, flow_columns, socket_columns
from probe.jsonlines.owner_objects import POD_KEYS
from probe.owners.kubernetes import node_name
from probe.units import octets as in_octets

if TYPE_CHECKING:
    from probe.interfaces.interface import Interface


class ObjectSink:
    """Encodes rows as lines. A subclass takes them in ``_put``, and does the rest of a Sink."""

    takes_events = True
    pairs_directions = True

    def __init__(self, target: Destination, config: RunConfig, owners: OwnerTable) -> None:
        self.name = str(target)
        self._pod_key = POD_KEYS.get(target.scheme, POD_KEYS["json"])
        exporter = exporter_members(node_name(config.kubernetes, config.kubernetes_node))
        self._address = exporter.get("EXPORTER_IPV4_ADDRESS", "")
        kind = EcsLines if target.options.get("format") == "ecs" else AgentLines
        self._lines: ObjectLines = kind(owners, config.privacy, exporter, self._pod_key)

    @property
    def statistics(self) -> SendStatistics:
        raise NotImplementedError

    def send(self, records: Rows, now_s: float) -> None:
        if len(records):
            columns = flow_columns(records)
            packets, octets = int(records["packets"].sum()), int(records["octets"].sum())
            self._put(self._lines.flows(columns), columns, packets, octets)

    def send_events(self, events: Rows, now_s: float) -> None:
        if len(events):
            columns = event_columns(events)
            self._put(self._lines.events(columns), columns)

    def send_sockets(self, sockets: Rows, now_s: float) -> None:
        if len(sockets):
            columns = socket_columns(sockets, now_s)
            self._put(self._lines.sockets(columns), columns)

    def send_interfaces(self, links: Sequence[Interface], now_s: float) -> None:
        found = [interface_object(link, now_s, self._address, self._pod_key) for link in links]
        self._put([self._lines.interface(one) for one in found], {})

    def forget(self, owners: list[int]) -> None:
        self._lines.forget(owners)

    def finish(self, now_s: float) -> None:
        """Does nothing: no output belongs at the end."""

    def announce_interfaces(self) -> None:
        """Does nothing: the names are in the objects with the counters."""

    def local_address(self) -> tuple[str, int] | None:
        return None

    def summary(self) -> str:
        sent = self.statistics
        return (
            f"{sent.sent_records} objects ({in_octets(sent.sent_octets)}), "
            f"{sent.sent_flow_records} of flows"
        )

    def _put(
        self, lines: list[str], columns: dict[str, Any], packets: int = 0, octets: int = 0
    ) -> None:
        """Queues ``lines``, which were made of ``columns``.

        ``packets`` and ``octets`` are the sums over the flows in them.
        """
        raise NotImplementedError


def exporter_members(node: str = "") -> dict[str, str]:
    """Returns the members at the end of every object.

    ``node`` is the name of this host; '' stands for the kernel's.
    """
    address, name = exporter_address(), {"EXPORTER_NAME": node or os.uname().nodename}
    return {"EXPORTER_IPV4_ADDRESS": address, **name} if address else name


def exporter_address() -> str:
    """Returns the IPv4 address of packets over the default route, or '' without any."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return ""
