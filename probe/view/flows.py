"""Combines decoded records into flows for people, with both directions of a connection in one.

Records are mappings of element name to value. The module does no I/O and has no clock. It takes the
IPFIX of any exporter; what a record lacks stays empty in the flow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from probe.flow.label import container_label
from probe.flow.owner import Container, Pod

Record = Mapping[str, Any]
Key = tuple[Any, ...]

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6", 132: "sctp"}
_TCP = 6
_INITIATOR, _RESPONDER = 1, 2  # biflowDirection: the role of the source
ENDED = {1: "idle", 3: "closed", 4: "forced end", 5: "evicted"}  # flowEndReason
_SIDES = {
    "process": ("SRC_PROC_NAME", "DST_PROC_NAME"),
    "pid": ("SRC_PROC_PID", "DST_PROC_PID"),
    "user": ("SRC_PROC_USER_NAME", "DST_PROC_USER_NAME"),
    "uid": ("SRC_PROC_UID", "DST_PROC_UID"),
    "container": ("SRC_PROC_CONTAINER_ID", "DST_PROC_CONTAINER_ID"),
    "called": ("sourceContainerName", "destinationContainerName"),
    "pod": ("sourcePodName", "destinationPodName"),
    "namespace": ("sourcePodNamespace", "destinationPodNamespace"),
    "workload": ("sourceWorkload", "destinationWorkload"),
}
_WAYS = ("flowStart", "flowEnd", "reverseFlowStart", "reverseFlowEnd")
#: Units per second, with the elements in that unit. The finest unit in common use comes first.
_TIMES = [
    (per_second, [f"{way}{unit}" for way in _WAYS])
    for unit, per_second in (
        ("Milliseconds", 1e3), ("Nanoseconds", 1e9), ("Microseconds", 1e6), ("Seconds", 1.0)
    )
]  # fmt: skip
_ORIGINS = ("sourceOwnerOrigin", "destinationOwnerOrigin")
_UNCONFIRMED = 16  # a bit of sourceOwnerOrigin; see elements.txt
_LONGEST = 256


@dataclass(slots=True)
class End:
    """One end of a flow. ``octets`` and ``packets`` count what it sent."""

    endpoint: str
    octets: int = 0
    packets: int = 0
    process: str = ""
    user: str = ""
    container: str = ""


@dataclass(slots=True)
class Flow:
    """A connection or a UDP exchange. Times are Unix seconds."""

    protocol: str
    client: End
    server: End
    first_s: float
    last_s: float
    seen_s: float = 0.0
    rtt_us: int = 0
    retransmitted: int = 0
    state: str = ""
    ended: bool = False
    changed: bool = field(default=True, repr=False)

    def age_s(self, now_s: float) -> float:
        """Returns seconds since the first packet; of an ended flow, until its last packet."""
        return max(0.0, (self.last_s if self.ended else now_s) - self.first_s)


class FlowTable:
    """The latest flows, at most ``limit``. Beyond, the flow without records for longest leaves."""

    def __init__(self, limit: int = 2000) -> None:
        self._flows: dict[Key, Flow] = {}
        self._limit = limit
        self.records = 0
        #: The time of the latest packet of any flow so far.
        self.latest_s = 0.0

    def __len__(self) -> int:
        return len(self._flows)

    def observe(self, records: Iterable[Record], now_s: float) -> None:
        """Adds records that arrived at ``now_s``, the time of records that carry none."""
        for record in records:
            if "protocolIdentifier" in record and _address(record, "source") is not None:
                self._observe_one(record, now_s)

    def newest(self, count: int) -> list[Flow]:
        """Returns the ``count`` flows with the latest packets."""
        return sorted(self._flows.values(), key=lambda flow: flow.last_s, reverse=True)[:count]

    def take_changed(self) -> list[Flow]:
        """Returns flows with news since the last call, the latest last. Forgets ended flows."""
        changed = [flow for flow in self._flows.values() if flow.changed]
        for flow in changed:
            flow.changed = False
        self.forget_ended(float("inf"))
        return sorted(changed, key=lambda flow: flow.last_s)

    def forget_ended(self, before_s: float) -> None:
        """Drops the flows whose end was reported before ``before_s``."""
        for key in [k for k, flow in self._flows.items() if flow.ended and flow.seen_s < before_s]:
            del self._flows[key]

    def _observe_one(self, record: Record, now_s: float) -> None:
        self.records += 1
        key = _key(record)
        from_client = _source_is_client(record)
        # The flow moves to the end of the dict, which is in the order of last records.
        flow = self._flows.pop(key, None) or _new_flow(record, from_client, now_s)
        self._flows[key] = flow
        _update(flow, record, now_s)
        self.latest_s = max(self.latest_s, flow.last_s)
        if len(self._flows) > self._limit:
            del self._flows[next(iter(self._flows))]


def _update(flow: Flow, record: Record, now_s: float) -> None:
    source, destination = flow.client, flow.server
    if source.endpoint != _endpoint(record, "source"):
        source, destination = destination, source
    source.octets += _number(record, "octetDeltaCount")
    source.packets += _number(record, "packetDeltaCount")
    destination.octets += _number(record, "reverseOctetDeltaCount")  # a biflow, RFC 5103
    destination.packets += _number(record, "reversePacketDeltaCount")
    _name(source, record, 0)
    _name(destination, record, 1)
    first_s, last_s = _times(record, now_s)
    flow.first_s, flow.last_s = min(flow.first_s, first_s), max(flow.last_s, last_s)
    reason = _number(record, "flowEndReason")
    flow.ended = reason in ENDED
    flow.state = ENDED.get(reason, "") or _text(record.get("tcpState")) or flow.state
    flow.seen_s, flow.changed = now_s, True


def _new_flow(record: Record, from_client: bool, now_s: float) -> Flow:
    number = _number(record, "protocolIdentifier")
    source, destination = End(_endpoint(record, "source")), End(_endpoint(record, "destination"))
    client, server = (source, destination) if from_client else (destination, source)
    first_s, last_s = _times(record, now_s)
    return Flow(PROTOCOLS.get(number, str(number)), client, server, first_s, last_s)


def _name(end: End, record: Record, side: int) -> None:
    """Updates process, user and container of an end. A name stays if a record has none."""
    name, pid, user, uid, container, *names = (record.get(two[side]) for two in _SIDES.values())
    if name or pid:
        end.process = f"{_text(name) or '?'}({_text(pid)})" if pid else _text(name)
        end.user = _text(user) or ("" if uid is None else str(uid)[:_LONGEST])
    called, pod, namespace, workload = map(_text, names)
    origin = record.get(_ORIGINS[side])
    is_doubted = isinstance(origin, int) and bool(origin & _UNCONFIRMED)
    inner = Container(_text(container), name=called, is_unconfirmed=is_doubted)
    end.container = container_label(inner, Pod(pod, namespace, workload=workload)) or end.container


def _key(record: Record) -> Key:
    """Returns a key that both directions share.

    Its flowId distinguishes equal addresses in isolated namespaces.
    """
    ends = sorted((_endpoint(record, "source"), _endpoint(record, "destination")))
    return _number(record, "protocolIdentifier"), *ends, _number(record, "flowId")


def _source_is_client(record: Record) -> bool:
    """Returns what biflowDirection says; else takes the end with the lower port for the server."""
    direction = record.get("biflowDirection")
    if direction in (_INITIATOR, _RESPONDER):
        return bool(direction == _INITIATOR)
    source, destination = (_number(record, f"{s}TransportPort") for s in ("source", "destination"))
    return source >= destination


def _address(record: Record, side: str) -> str | None:
    address = record.get(f"{side}IPv4Address", record.get(f"{side}IPv6Address"))
    return None if address is None else _text(address)


def _endpoint(record: Record, side: str) -> str:
    address, port = _address(record, side) or "?", _number(record, f"{side}TransportPort") or "?"
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _times(record: Record, now_s: float) -> tuple[float, float]:
    """Returns the times of the first and last packet of both directions, in Unix seconds.

    They come from the first unit of _TIMES in which the record has two times.
    """
    for per_second, names in _TIMES:
        times = [time / per_second for name in names if isinstance(time := record.get(name), int)]
        if len(times) > 1:
            return min(times), max(times)
    return now_s, now_s


def _number(record: Record, name: str) -> int:
    """Returns a number, or 0 if there is none.

    The value may have any type, as exporters choose the types of their own elements.
    """
    value = record.get(name)
    return value if isinstance(value, int) else 0


def _text(value: object) -> str:
    """Returns a name, cut to _LONGEST characters, since each flow keeps its names."""
    return str(value or "")[:_LONGEST]
