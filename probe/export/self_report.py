"""Reports on the probe itself: rows for the Options Templates of ``templates/options.txt``."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from typing import Protocol

from probe.export.transports.sender import Sender
from probe.figures import Figures
from probe.flow.label import names_label
from probe.interfaces.interface import Interface
from probe.interfaces.names import InterfaceList
from probe.ipfix.options import OptionRow, OptionValue

_NO_ADDRESS = {"exporterIPv4Address": bytes(4), "exporterIPv6Address": bytes(16)}


class Metering(Protocol):
    """Gives access to the counts of the Metering Process."""

    def figures(self) -> Figures:
        """Returns the counts until now."""


class SelfReport:
    """Makes the rows of all options of one session.

    ``boot_s``: Unix time at which the host booted.
    """

    def __init__(
        self,
        metering: Metering,
        interfaces: InterfaceList,
        sender: Sender,
        odid: int,
        boot_s: float,
        node: str = "",
    ) -> None:
        self._metering = metering
        self._node = node or os.uname().nodename
        self._interfaces = interfaces
        self._sender = sender
        self._odid = odid
        self._boot_ms = round(boot_s * 1000)
        self._ended = interfaces.table.ended.reader()

    def read(self) -> Mapping[str, Sequence[OptionRow]]:
        interfaces = self._interface_rows()
        figures = self._metering.figures()
        return {
            "exporter": [self._exporter()],
            "statistics": [self._statistics(figures)],
            "losses": self._losses(figures),
            "interfaces": interfaces,
            "nfdump-interfaces": interfaces,
        }

    def counters(self) -> list[OptionRow]:
        """Returns the present counters of each interface.

        The last counters of an interface that is gone are returned once.
        """
        links = self._interfaces.table.read()
        return [_counters(link) for link in (*self._ended(), *links)]

    def _exporter(self) -> OptionRow:
        return {
            "observationDomainId": self._odid,
            "exportingProcessId": self._odid,
            "observationDomainName": self._node,
            "systemInitTimeMilliseconds": self._boot_ms,
            **_addresses(self._sender.local_address()),
        }

    def _statistics(self, figures: Figures) -> OptionRow:
        sent = self._sender.statistics
        return {
            "exportingProcessId": self._odid,
            "exportedMessageTotalCount": sent.sent_messages,
            "exportedOctetTotalCount": sent.sent_octets,
            "exportedFlowRecordTotalCount": sent.sent_flow_records,
            "observedFlowTotalCount": figures.flows,
            "ignoredPacketTotalCount": figures.excluded_packets,
            "ignoredOctetTotalCount": figures.excluded_octets,
            "notSentFlowTotalCount": sent.dropped_flow_records,
            "notSentPacketTotalCount": sent.dropped_packets,
            "notSentOctetTotalCount": sent.dropped_octets,
        }

    def _losses(self, figures: Figures) -> list[OptionRow]:
        """Returns a row for each cause of losses. A count of 0 is reported too."""
        return [
            {"meteringProcessId": self._odid, "lossCause": cause, "lossTotalCount": count}
            for cause, count in figures.losses.items()
        ]

    def _interface_rows(self) -> list[OptionRow]:
        return [
            {
                "observationDomainId": self._odid,
                "ingressInterface": interface.index,
                "interfaceName": interface.name,
                "interfaceDescription": interface.description,
            }
            for interface in self._interfaces.described()
        ]


def _counters(link: Interface) -> OptionRow:
    """Returns the row of one interface.

    In a veth, "in" is the traffic that its container sends. The elements of IANA hold the counters
    of incoming traffic.
    """
    counters = link.counters
    name = names_label(link.container_id, link.names)
    return {
        "ingressInterface": link.index,
        "interfaceName": link.name,
        "interfaceContainerName": name,
        "layer2OctetTotalCount": counters.in_octets,
        "packetTotalCount": counters.in_packets,
        "interfaceInErrorTotalCount": counters.in_errors,
        "droppedPacketTotalCount": counters.in_discards,
        "interfaceOutOctetTotalCount": counters.out_octets,
        "interfaceOutPacketTotalCount": counters.out_packets,
        "interfaceOutErrorTotalCount": counters.out_errors,
        "interfaceOutDropTotalCount": counters.out_discards,
    }


def _addresses(local: tuple[str, int] | None) -> dict[str, OptionValue]:
    """Returns both address elements. The one of the other IP version is all zeroes."""
    if local is None:
        return dict(_NO_ADDRESS)
    address = ipaddress.ip_address(local[0].partition("%")[0])
    return {**_NO_ADDRESS, f"exporterIPv{address.version}Address": address.packed}
