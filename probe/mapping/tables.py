"""The tables of flow columns and owner attributes that fill Information Elements."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from probe.flow import columns as flow_columns
from probe.flow.owner import Owner

#: The kernel's "no such id" for users and groups: 0 would be root.
_NO_ID = 0xFFFFFFFF
_PATH_ORIGINS = {"": 0, "walked": 1, "exec": 2}
#: Names of include/net/tcp_states.h by number; '' for UDP.
TCP_STATES = (
    "",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
    "BOUND_INACTIVE",
)


@dataclass(frozen=True, slots=True)
class Privacy:
    """What may leave the host; a False removes its elements from every Template."""

    users: bool = True
    paths: bool = True
    names: bool = True
    command_lines: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """An element whose value is a number in the record itself."""

    name: str
    convert: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    #: Nanoseconds that are exported as milliseconds of sysUptime (RFC 3954 section 8).
    is_uptime: bool = False


AttributeValue = int | str | bytes


@dataclass(frozen=True, slots=True)
class Attribute:
    """An element of the owner or state whose index is in the record's column ``key``."""

    key: str
    read: Callable[[Any], AttributeValue]
    privacy: str = ""


def _to_ms(ns: NDArray[Any]) -> NDArray[Any]:
    return ns // 1_000_000


def _to_s(ns: NDArray[Any]) -> NDArray[Any]:
    return ns // 1_000_000_000


def _to_tos(dscp: NDArray[Any]) -> NDArray[Any]:
    return dscp << 2


def _to_one(values: NDArray[Any]) -> NDArray[Any]:
    return np.ones(len(values), np.uint8)


def _to_boolean(values: NDArray[Any]) -> NDArray[Any]:
    return np.where(values != 0, 1, 2)  # RFC 7011 section 6.1.5


def _to_uuid(text: str) -> bytes:
    """Returns a UUID as 16 octets, zeros if the text is empty or no UUID.

    The UID of a Pod from a static manifest is 32 digits without dashes, which is read in the same
    way.
    """
    try:
        return UUID(text).bytes if text else bytes(16)
    except ValueError:
        return bytes(16)


def _to_json(labels: tuple[tuple[str, str], ...]) -> str:
    return json.dumps(dict(labels), separators=(",", ":"), ensure_ascii=False) if labels else ""


COLUMNS = {
    "octetDeltaCount": Column("octets"),
    "packetDeltaCount": Column("packets"),
    "protocolIdentifier": Column("protocol"),
    "ipClassOfService": Column("dscp", _to_tos),
    "ipDiffServCodePoint": Column("dscp"),
    "tcpControlBits": Column("tcp_flags"),
    "sourceTransportPort": Column("source_port"),
    "destinationTransportPort": Column("destination_port"),
    "sourceIPv4Address": Column("source_address"),
    "destinationIPv4Address": Column("destination_address"),
    "sourceIPv6Address": Column("source_address"),
    "destinationIPv6Address": Column("destination_address"),
    "ingressInterface": Column("ingress_interface"),
    "egressInterface": Column("egress_interface"),
    "ipVersion": Column("ip_version"),
    "flowDirection": Column("flow_direction"),
    "biflowDirection": Column("biflow_direction"),
    "flowEndReason": Column("end_reason"),
    "flowId": Column("flow_id"),
    "flowStartSeconds": Column("first_ns", _to_s),
    "flowEndSeconds": Column("last_ns", _to_s),
    "flowStartMilliseconds": Column("first_ns", _to_ms),
    "flowEndMilliseconds": Column("last_ns", _to_ms),
    "flowStartSysUpTime": Column("first_ns", is_uptime=True),
    "flowEndSysUpTime": Column("last_ns", is_uptime=True),
    "postNATSourceIPv4Address": Column("nat_source_address"),
    "postNATDestinationIPv4Address": Column("nat_destination_address"),
    "postNAPTSourceTransportPort": Column("nat_source_port"),
    "postNAPTDestinationTransportPort": Column("nat_destination_port"),
    # No sampling: one packet in one is counted.
    "samplingInterval": Column("protocol", _to_one),
    "RETRANSMITTED_IN_PKTS": Column("retransmitted"),
    "tcpSmoothedRttMicroseconds": Column("rtt_us"),
    "tcpRttVarianceMicroseconds": Column("rtt_var_us"),
    "tcpLostSegmentDeltaCount": Column("lost"),
    "tcpUnacknowledgedSegments": Column("unacknowledged"),
    "tcpCongestionWindowSegments": Column("congestion_window"),
    "tcpPacingRate": Column("pacing_rate"),
    "tcpDeliveryRate": Column("delivery_rate"),
    "countersEstimated": Column("estimated", _to_boolean),
    "sourceOwnerOrigin": Column("source_owner_source"),
    "destinationOwnerOrigin": Column("destination_owner_source"),
    "sourceNetworkNamespaceInode": Column("source_netns_inode"),
    "destinationNetworkNamespaceInode": Column("destination_netns_inode"),
    "sourceNetworkNamespaceCookie": Column("source_netns"),
    "destinationNetworkNamespaceCookie": Column("destination_netns"),
}
#: ntop's own names for elements of the other direction.
_REVERSE_NAMES = {"RETRANSMITTED_IN_PKTS": "RETRANSMITTED_OUT_PKTS"}
_REVERSIBLE = {column.name for column in flow_columns.COLUMNS if column.has_reverse}


def _reverse_name(name: str) -> str:
    return _REVERSE_NAMES.get(name) or f"reverse{name[0].upper()}{name[1:]}"


#: Element of one direction -> element of the other (RFC 5103 section 6.1).
REVERSES = {
    name: _reverse_name(name)
    for name, column in COLUMNS.items()
    if column.name in _REVERSIBLE and not column.is_uptime
}
#: Columns of biflows, which are rows of BIFLOW_DTYPE.
COLUMNS |= {
    reverse: Column(f"reverse_{COLUMNS[name].name}", COLUMNS[name].convert)
    for name, reverse in REVERSES.items()
}

#: Elements that only flows have that conntrack shows as translated.
TRANSLATION = {
    "postNATSourceIPv4Address",
    "postNATDestinationIPv4Address",
    "postNAPTSourceTransportPort",
    "postNAPTDestinationTransportPort",
}


def _known(identifier: int | None) -> int:
    return _NO_ID if identifier is None else identifier


def _owner_attributes(side: str, ntop: str) -> dict[str, Attribute]:
    """Returns the elements of the owner at one side; ``ntop`` is the prefix of ntop's names."""
    key = f"{side}_owner"

    def attribute(read: Callable[[Owner], AttributeValue], privacy: str = "") -> Attribute:
        return Attribute(key, read, privacy)

    return {
        f"{ntop}_PROC_PID": attribute(lambda owner: owner.process.pid or 0),
        f"{ntop}_PROC_NAME": attribute(lambda owner: owner.process.name, "names"),
        f"{ntop}_PROC_UID": attribute(lambda owner: _known(owner.process.uid), "users"),
        f"{ntop}_PROC_USER_NAME": attribute(lambda owner: owner.process.user_name, "users"),
        f"{ntop}_PROC_CMDLINE": attribute(
            lambda owner: owner.process.command_line, "command_lines"
        ),
        f"{ntop}_PROC_CONTAINER_ID": attribute(lambda owner: owner.container.id),
        f"{ntop}_FATHER_PROC_PID": attribute(lambda owner: owner.parent.pid or 0),
        f"{ntop}_FATHER_PROC_NAME": attribute(lambda owner: owner.parent.name, "names"),
        f"{ntop}_FATHER_PROC_UID": attribute(lambda owner: _known(owner.parent.uid), "users"),
        f"{ntop}_FATHER_PROC_USER_NAME": attribute(lambda owner: owner.parent.user_name, "users"),
        f"{ntop}_PROC_ACTUAL_MEMORY": attribute(lambda owner: owner.process.vm_size or 0),
        f"{ntop}_PROC_PEAK_MEMORY": attribute(lambda owner: owner.process.vm_peak or 0),
        f"{side}GroupName": attribute(lambda owner: owner.process.group_name, "users"),
        f"{side}ContainerName": attribute(lambda owner: owner.container.name),
        f"{side}OuterContainerId": attribute(lambda owner: owner.container.outer_id),
        f"{side}ContainerImage": attribute(lambda owner: owner.container.image),
        f"{side}ComposeProject": attribute(lambda owner: owner.container.compose_project),
        f"{side}ComposeService": attribute(lambda owner: owner.container.compose_service),
        f"{side}SystemdUnit": attribute(lambda owner: owner.unit),
        f"{side}GroupId": attribute(lambda owner: _known(owner.process.gid), "users"),
        f"{side}ProcessPath": attribute(lambda owner: owner.process.path, "paths"),
        f"{side}ProcessPathOrigin": attribute(
            lambda owner: _PATH_ORIGINS.get(owner.process.path_source, 0), "paths"
        ),
        f"{side}ParentProcessPath": attribute(lambda owner: owner.parent.path, "paths"),
        f"{side}PodNamespace": attribute(lambda owner: owner.pod.namespace),
        f"{side}PodName": attribute(lambda owner: owner.pod.name),
        f"{side}PodUUID": attribute(lambda owner: _to_uuid(owner.pod.uid)),
        f"{side}PodLabels": attribute(lambda owner: _to_json(owner.pod.labels)),
        f"{side}Workload": attribute(lambda owner: owner.pod.workload),
        f"{side}WorkloadKind": attribute(lambda owner: owner.pod.workload.partition("/")[0]),
        f"{side}WorkloadName": attribute(lambda owner: owner.pod.workload.partition("/")[2]),
        f"{side}ServicePortName": attribute(lambda owner: owner.service),
        f"{side}NodeZone": attribute(lambda owner: owner.node.zone),
        f"{side}ClusterName": attribute(lambda owner: owner.pod.cluster),
        f"{side}NodeName": attribute(lambda owner: owner.node.name),
    }


ATTRIBUTES = {
    **_owner_attributes("source", "SRC"),
    **_owner_attributes("destination", "DST"),
    "tcpState": Attribute("tcp_state", str),
}
