"""Flows, events and sockets as JSON objects with the names of ntop's agents (docs/json.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from probe.flow.codes import EndReason, EventKind
from probe.flow.owner import OwnerTable
from probe.jsonlines import lines
from probe.jsonlines.layouts import CONTAINER, FAILED, NAT, ErrorNames, ObjectLines
from probe.jsonlines.lines import Fragments, Tree
from probe.jsonlines.owner_objects import owner_members
from probe.mapping.tables import Privacy

#: Names of the numbers in include/net/tcp_states.h, in the spelling of RFC 9293.
CONN_STATES = (
    "", "ESTABLISHED", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "CLOSE",
    "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING", "SYN-RECV", "CLOSE",
)  # fmt: skip
#: Names in IANA's registry of flowEndReason (RFC 5102 section 5.11.3).
END_REASONS = {
    0: "unknown",
    EndReason.IDLE_TIMEOUT: "idle timeout",
    EndReason.ACTIVE_TIMEOUT: "active timeout",
    EndReason.END_OF_FLOW: "end of Flow detected",
    EndReason.FORCED_END: "forced end",
    EndReason.LACK_OF_RESOURCES: "lack of resources",
}
ROLES = ("UNKNOWN", "CLIENT", "SERVER")
KINDS = {int(kind): kind.name for kind in EventKind}
SOCKET_KINDS = ("LISTEN", "LISTEN_END")


class AgentLines(ObjectLines):
    """The format of ntop's agents.

    ``exporter`` holds the members at the end of every object; ``pod_key`` is one of POD_KEYS.
    """

    def __init__(
        self,
        owners: OwnerTable,
        privacy: Privacy,
        exporter: Mapping[str, str],
        pod_key: str = "KUBE",
    ) -> None:
        ends = [
            Fragments(owners, lambda owner, p=prefix: owner_members(owner, p, privacy, pod_key))  # type: ignore[misc]
            for prefix in ("LOCAL", "REMOTE")
        ]
        self._owners = {
            f"{end}_owner": fragments.of(f"{end}_owner")
            for end, fragments in zip(("local", "remote"), ends, strict=True)
        }
        self._exporter = dict(exporter)
        super().__init__(ends)

    def _flow(self, version: int, is_tcp: bool, extra: int) -> Tree:
        return {
            "timestamp": lines.unix_time("time_ns"),
            **self._owners,
            "EVENT_TYPE": "FLOW",
            **_ends(version),
            **({"TCP": _tcp(_FLOW_TCP)} if is_tcp else {}),
            **(_translation() if extra & NAT else {}),
            "FLOW_ID": lines.digits("flow_id"),
            "LOCAL_ROLE": lines.name("role", ROLES),
            "FLOW_START_MILLISECONDS": lines.quotient("first_ns", 10**6),
            "FLOW_END_MILLISECONDS": lines.quotient("last_ns", 10**6),
            "FLOW_END_REASON": lines.name("end_reason", END_REASONS),
            **_traffic(),
            "INPUT_SNMP": lines.number("remote_interface"),
            "OUTPUT_SNMP": lines.number("local_interface"),
            **self._exporter,
        }

    def _event(self, version: int, is_tcp: bool, extra: int) -> Tree:
        tree = {
            "timestamp": lines.unix_time("time_ns"),
            "local_owner": self._owners["local_owner"],
            "EVENT_TYPE": lines.name("kind", KINDS),
        }
        if extra & CONTAINER:
            return {**tree, **self._exporter}
        tree = {**tree, "remote_owner": self._owners["remote_owner"]}
        failed = {"ERRNO": lines.number("error"), "ERROR": lines.name("error", ErrorNames())}
        return {
            **tree,
            **_ends(version),
            **({"TCP": _tcp(_EVENT_TCP)} if is_tcp else {}),
            **(failed if extra & FAILED else {}),
            "FLOW_ID": lines.digits("flow_id"),
            "LOCAL_ROLE": lines.name("role", ROLES),
            "COUNT": lines.number("count"),
            **_traffic(),
            **self._exporter,
        }

    def _socket(self, version: int, is_tcp: bool, extra: int) -> Tree:
        return {
            "timestamp": lines.unix_time("time_ns"),
            "local_owner": self._owners["local_owner"],
            "EVENT_TYPE": lines.name("gone", SOCKET_KINDS),
            "IP_PROTOCOL_VERSION": version,
            "PROTOCOL": lines.number("protocol"),
            "L4_LOCAL_PORT": lines.number("local_port"),
            f"IPV{version}_LOCAL_ADDR": lines.address("local_address", version),
            **({"TCP": {"CONN_STATE": lines.name("gone", ("LISTEN", "CLOSE"))}} if is_tcp else {}),
            **self._exporter,
        }


#: Rates are in octets a second, times in milliseconds.
_EVENT_TCP = ("CONN_STATE", "RETRAN_PKTS", "SEGS_IN", "SEGS_OUT", "BYTES_RCVD", "RTT",
              "RTT_VARIANCE")  # fmt: skip
_FLOW_TCP = ("CONN_STATE", "RETRAN_PKTS", "UNACK_SEGMENTS", "LOST_PKTS", "SEGS_IN", "SEGS_OUT",
             "BYTES_RCVD", "RTT", "RTT_VARIANCE", "CURRENT_RATE", "DELIVERY_RATE")  # fmt: skip


def _tcp(names: Sequence[str]) -> Tree:
    known = {
        "CONN_STATE": lines.name("tcp_state", CONN_STATES),
        "RETRAN_PKTS": lines.number("tx_retransmitted"),
        "UNACK_SEGMENTS": lines.number("tx_unacknowledged"),
        "LOST_PKTS": lines.number("tx_lost"),
        "SEGS_IN": lines.number("rx_packets"),
        "SEGS_OUT": lines.number("tx_packets"),
        "BYTES_RCVD": lines.number("rx_octets"),
        "RTT": lines.scaled("rtt_us", 1000, 3),
        "RTT_VARIANCE": lines.scaled("rtt_var_us", 1000, 3),
        "CURRENT_RATE": lines.number("tx_pacing_rate"),
        "DELIVERY_RATE": lines.number("tx_delivery_rate"),
    }
    return {name: known[name] for name in names}


def _ends(version: int) -> Tree:
    return {
        "IP_PROTOCOL_VERSION": version,
        "PROTOCOL": lines.number("protocol"),
        "L4_LOCAL_PORT": lines.number("local_port"),
        "L4_REMOTE_PORT": lines.number("remote_port"),
        f"IPV{version}_LOCAL_ADDR": lines.address("local_address", version),
        f"IPV{version}_REMOTE_ADDR": lines.address("remote_address", version),
    }


def _translation() -> Tree:
    return {
        "NAT": {
            "L4_LOCAL_PORT": lines.number("local_nat_port"),
            "L4_REMOTE_PORT": lines.number("remote_nat_port"),
            "IPV4_LOCAL_ADDR": lines.address("local_nat_address", 4),
            "IPV4_REMOTE_ADDR": lines.address("remote_nat_address", 4),
        }
    }


def _traffic() -> Tree:
    return {
        "BYTES_SENT": lines.number("tx_octets"),
        "BYTES_RCVD": lines.number("rx_octets"),
        "PKTS_SENT": lines.number("tx_packets"),
        "PKTS_RCVD": lines.number("rx_packets"),
    }
