"""Flow records in a form that can be compared between collectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tests.support.lab.hosts import Counted, Host

TCP, UDP = 6, 17


class Flow(NamedTuple):
    """One record: one direction of a flow, or part of one."""

    source: str
    destination: str
    source_port: int
    destination_port: int
    protocol: int
    packets: int
    octets: int
    #: In Unix milliseconds.
    first_ms: int
    last_ms: int

    @property
    def key(self) -> tuple[str, str, int, int, int]:
        return self[:5]

    @property
    def reverse(self) -> tuple[str, str, int, int, int]:
        return (
            self.destination, self.source, self.destination_port, self.source_port, self.protocol
        )  # fmt: skip


def flow(values: Iterable[object]) -> Flow:
    """Returns a flow from texts or numbers, in the order of the fields."""
    source, destination, *numbers = map(str, values)
    return Flow(source, destination, *map(int, numbers))


def flow_of(record: Mapping[str, Any]) -> Flow:
    """Returns a flow from a record with names of Information Elements."""
    family = record["ipVersion"]
    return flow(
        record[name] for name in (
            f"sourceIPv{family}Address", f"destinationIPv{family}Address", "sourceTransportPort",
            "destinationTransportPort", "protocolIdentifier", "packetDeltaCount", "octetDeltaCount",
            "flowStartMilliseconds", "flowEndMilliseconds",
        )
    )  # fmt: skip


def sent_by(flows: Iterable[Flow], host: Host, protocol: int) -> Counted:
    addresses = {str(host.four), str(host.six)}
    own = [one for one in flows if one.source in addresses and one.protocol == protocol]
    return Counted(sum(one.packets for one in own), sum(one.octets for one in own))


def assert_near(measured: Counted, truth: Counted, share: float) -> None:
    """Asserts that the flows agree within ``share``, exactly if it is 0."""
    assert truth.packets
    assert abs(measured.packets - truth.packets) <= share * truth.packets, (measured, truth)
    assert abs(measured.octets - truth.octets) <= share * truth.octets, (measured, truth)
