"""Flows, events and sockets in the names of the Elastic Common Schema (docs/json.md).

``source`` is the client and ``destination`` the server. ``process``, ``container`` and
``orchestrator`` are those of the local end. If the remote end is on this host too, its owner is
below ``sockflow.remote``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probe.flow.codes import EndReason, EventKind
from probe.flow.owner import Owner, OwnerTable
from probe.jsonlines import lines
from probe.jsonlines.agent_objects import CONN_STATES, END_REASONS
from probe.jsonlines.layouts import CONTAINER, FAILED, NAT, ErrorNames, ObjectLines
from probe.jsonlines.lines import Fragments, Tree, clean
from probe.jsonlines.local_remote import add_client_and_server
from probe.jsonlines.owner_objects import name_in_pod
from probe.mapping.tables import Privacy

ECS_VERSION = "8.11.0"
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"}
_DIRECTIONS = ("unknown", "egress", "ingress")  # by Role
_TYPES = {
    EventKind.CONNECT: "start",
    EventKind.ACCEPT: "start",
    EventKind.CONNECT_FAILED: "denied",
    EventKind.CLOSE: "end",
    EventKind.CONTAINER_START: "start",
    EventKind.CONTAINER_STOP: "end",
}
_EVENT_TYPES = {int(kind): _TYPES.get(kind, "info") for kind in EventKind}
_FLOW_TYPES = dict.fromkeys(END_REASONS, "end") | {EndReason.ACTIVE_TIMEOUT: "info"}
_ACTIONS = {int(kind): kind.name.lower().replace("_", "-") for kind in EventKind}


class _Protocols(dict[int, str]):
    def __missing__(self, number: int) -> str:
        return str(number)


class EcsLines(ObjectLines):
    """The Elastic Common Schema.

    ``exporter`` is {EXPORTER_IPV4_ADDRESS, EXPORTER_NAME}, as for AgentLines; it becomes ``host``.
    """

    def __init__(
        self,
        owners: OwnerTable,
        privacy: Privacy,
        exporter: Mapping[str, str],
        pod_key: str = "KUBE",
    ) -> None:
        local = Fragments(owners, lambda owner: _owner(owner, privacy))
        own = Fragments(owners, lambda owner: _own(owner, privacy))
        remote = Fragments(
            owners, lambda owner: _below_remote({**_owner(owner, privacy), **_own(owner, privacy)})
        )
        self._local = local.of("local_owner")
        self._own = own.of("local_owner")
        self._remote = remote.of("remote_owner")
        address = exporter.get("EXPORTER_IPV4_ADDRESS")
        self._host: dict[str, Any] = {"name": exporter.get("EXPORTER_NAME", "")}
        if address:
            self._host["ip"] = [address]
        super().__init__([local, own, remote])

    def flows(self, columns: dict[str, Any]) -> list[str]:
        add_client_and_server(columns)
        return super().flows(columns)

    def events(self, columns: dict[str, Any]) -> list[str]:
        add_client_and_server(columns)
        return super().events(columns)

    def interface(self, found: Mapping[str, Any]) -> str:
        """Returns the line of an ``interface_object``, unchanged below sockflow.interface."""
        about = {key: value for key, value in found.items() if key[0].islower()}
        second = float(about.pop("timestamp"))
        tree = {
            "@timestamp": lines.iso_text(second),
            "ecs": {"version": ECS_VERSION},
            "event": {
                **_event("interface", "metric"), "type": ["info"], "action": "interface-counters"
            },
            "host": self._host,
            "observer": {"ingress": {"interface": _interface(found)}},
            "sockflow": {"interface": about, **_interface_container(found)},
        }  # fmt: skip
        return lines.encode(tree)

    def _flow(self, version: int, is_tcp: bool, extra: int) -> Tree:
        about = {
            "type": [lines.name("end_reason", _FLOW_TYPES)],
            "action": "network-flow",
            "start": lines.iso_time("first_ns"),
            "end": lines.iso_time("last_ns"),
            "duration": lines.difference("last_ns", "first_ns"),
            "reason": lines.name("end_reason", END_REASONS),
        }
        return {
            **self._begin("flow", about),
            "network": {**_network(version), **_traffic()},
            "source": _end("source", version),
            "destination": _end("destination", version),
            "sockflow": {
                "local_owner": self._own,
                "remote_owner": self._remote,
                "flow_id": lines.digits("flow_id"),
                **({"tcp": {**_tcp(), **_flow_tcp()}} if is_tcp else {}),
                **({"nat": _translation()} if extra & NAT else {}),
            },
        }

    def _event(self, version: int, is_tcp: bool, extra: int) -> Tree:
        category = "container" if extra & CONTAINER else "network"
        about = {
            "type": [lines.name("kind", _EVENT_TYPES)],
            "action": lines.name("kind", _ACTIONS),
        }
        if extra & CONTAINER:
            return self._begin("event", about, category)
        failed = {"outcome": "failure", "code": lines.name("error", ErrorNames())}
        return {
            **self._begin("event", {**about, **(failed if extra & FAILED else {})}),
            "network": {**_network(version), **_traffic()},
            "source": _end("source", version),
            "destination": _end("destination", version),
            "sockflow": {
                "local_owner": self._own,
                "remote_owner": self._remote,
                "flow_id": lines.digits("flow_id"),
                "count": lines.number("count"),
                **({"tcp": _tcp()} if is_tcp else {}),
            },
        }

    def _socket(self, version: int, is_tcp: bool, extra: int) -> Tree:
        about = {
            "type": [lines.name("gone", ("start", "end"))],
            "action": lines.name("gone", ("listen", "listen-end")),
        }
        return {
            **self._begin("socket", about),
            "network": _network(version, has_direction=False),
            "server": {
                "address": lines.address("local_address", version),
                "ip": lines.address("local_address", version),
                "port": lines.number("local_port"),
            },
        }  # fmt: skip

    def _begin(self, dataset: str, about: Mapping[str, Any], category: str = "network") -> Tree:
        return {
            "@timestamp": lines.iso_time("time_ns"),
            "local_owner": self._local,
            "ecs": {"version": ECS_VERSION},
            "event": {**_event(dataset, "event", category), **about},
            "host": self._host,
        }


def _event(dataset: str, kind: str, category: str = "network") -> dict[str, Any]:
    return {
        "kind": kind, "category": [category], "module": "sockflow", "dataset": f"sockflow.{dataset}"
    }  # fmt: skip


def _network(version: int, has_direction: bool = True) -> dict[str, Any]:
    direction = {"direction": lines.name("role", _DIRECTIONS)} if has_direction else {}
    return {
        "type": f"ipv{version}",
        "transport": lines.name("protocol", _Protocols(_PROTOCOLS)),
        "iana_number": lines.digits("protocol"),
        **direction,
    }


def _traffic() -> Tree:
    return {"bytes": lines.number("octets"), "packets": lines.number("packets")}


def _end(side: str, version: int) -> Tree:
    return {
        "address": lines.address(f"{side}_address", version),
        "ip": lines.address(f"{side}_address", version),
        "port": lines.number(f"{side}_port"),
        "bytes": lines.number(f"{side}_octets"),
        "packets": lines.number(f"{side}_packets"),
    }


def _translation() -> Tree:
    return {
        end: {
            "ip": lines.address(f"{end}_nat_address", 4), "port": lines.number(f"{end}_nat_port")
        }
        for end in ("local", "remote")
    }  # fmt: skip


def _tcp() -> Tree:
    return {
        "state": lines.name("tcp_state", CONN_STATES),
        "rtt_ms": lines.scaled("rtt_us", 1000, 3),
        "rtt_variance_ms": lines.scaled("rtt_var_us", 1000, 3),
        "retransmitted": lines.number("tx_retransmitted"),
    }


def _flow_tcp() -> Tree:
    return {
        "lost": lines.number("tx_lost"),
        "unacknowledged": lines.number("tx_unacknowledged"),
        "pacing_rate": lines.number("tx_pacing_rate"),
        "delivery_rate": lines.number("tx_delivery_rate"),
    }


def _below_remote(members: Mapping[str, Any]) -> dict[str, Any]:
    return {"remote": members} if members else {}


def _owner(owner: Owner, privacy: Privacy) -> dict[str, Any]:
    """Returns the members for an owner: what is known of it and may leave the host."""
    found: dict[str, Any] = {}
    if owner.process.pid:
        found["process"] = _pruned(
            {
                "pid": owner.process.pid,
                "name": owner.process.name if privacy.names else "",
                "executable": owner.process.path if privacy.paths else "",
                "command_line": owner.process.command_line if privacy.command_lines else "",
                "parent": _parent(owner, privacy),
                **(_user(owner) if privacy.users else {}),
            }
        )
    container = {
        "id": owner.container.id,
        "name": name_in_pod(owner),
        "image": {"name": owner.container.image},
    }
    found["container"] = container if owner.container.id else {}
    if owner.pod.is_known:
        found["orchestrator"] = _orchestrator(owner)
    return _pruned(found)


def _orchestrator(owner: Owner) -> dict[str, Any]:
    """Returns the orchestrator of a Pod. ECS has a field for a workload's kind only."""
    kind, _, name = owner.pod.workload.partition("/")
    labels = [f"{key}={value}" for key, value in owner.pod.labels]
    if owner.pod.workload and not owner.pod.name:
        resource: dict[str, Any] = {"type": kind.lower(), "name": name}
    else:
        resource = {
            "type": "pod", "name": owner.pod.name, "id": owner.pod.uid,
            "parent": {"type": kind.lower()}, "label": labels,
        }  # fmt: skip
    return {
        "type": "kubernetes", "namespace": owner.pod.namespace, "resource": resource,
        "cluster": {"name": owner.pod.cluster},
    }  # fmt: skip


def _own(owner: Owner, privacy: Privacy) -> dict[str, Any]:
    """Returns the members for which ECS has no field."""
    is_told_path = owner.process.path_source == "exec" and privacy.paths
    return _pruned(
        {
            "unit": owner.unit,
            "executable_unconfirmed": is_told_path or "",
            "container_unconfirmed": owner.container.is_unconfirmed or "",
            "outer_container": {"id": owner.container.outer_id},
            "kubernetes": (
                {
                    "workload": owner.pod.workload,
                    "node": owner.node.name,
                    "zone": owner.node.zone,
                    "cluster": owner.pod.cluster,
                    "service": owner.service,
                }
                if owner.pod.is_known
                else {}
            ),
        }
    )


def _parent(owner: Owner, privacy: Privacy) -> dict[str, Any]:
    if not owner.parent.pid:
        return {}
    return {
        "pid": owner.parent.pid,
        "name": owner.parent.name if privacy.names else "",
        "executable": owner.parent.path if privacy.paths else "",
    }


def _user(owner: Owner) -> dict[str, Any]:
    return {
        "user": {"id": _digits(owner.process.uid), "name": owner.process.user_name},
        "group": {"id": _digits(owner.process.gid), "name": owner.process.group_name},
    }


def _digits(identifier: int | None) -> str:
    return "" if identifier is None else str(identifier)


def _pruned(members: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tree without empty strings and empty objects."""
    found: dict[str, Any] = {}
    for key, value in members.items():
        if isinstance(value, Mapping):
            value = _pruned(value)
        elif isinstance(value, str):
            value = clean(value)
        if value not in ("", {}, []):
            found[key] = value
    return found


def _interface(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": str(found["ifIndex"]), "name": found["ifName"]}


def _interface_container(found: Mapping[str, Any]) -> dict[str, Any]:
    names = found.get("LOCAL_CONTAINER")
    return {"container": names} if names else {}
