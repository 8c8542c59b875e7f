"""Makes agent objects for the editions of ntopng that take flows as JSON."""

from __future__ import annotations

from probe.jsonlines import lines
from probe.jsonlines.agent_objects import KINDS, AgentLines
from probe.jsonlines.lines import Tree

_NS = 10**9


class NtopngLines(AgentLines):
    """AgentLines with the counters and times that ntopng reads. The local end is its source."""

    def _flow(self, version: int, is_tcp: bool, extra: int) -> Tree:
        return {
            **super()._flow(version, is_tcp, extra),
            "IN_BYTES": lines.number("tx_octets"),
            "IN_PKTS": lines.number("tx_packets"),
            "OUT_BYTES": lines.number("rx_octets"),
            "OUT_PKTS": lines.number("rx_packets"),
            "FIRST_SWITCHED": lines.quotient("first_ns", _NS),
            "LAST_SWITCHED": lines.quotient("last_ns", _NS),
        }

    def _event(self, version: int, is_tcp: bool, extra: int) -> Tree:
        """Returns the layout of an event, with TCP_EVENT_TYPE or UDP_EVENT_TYPE in addition."""
        protocol = "TCP" if is_tcp else "UDP"
        kind = lines.name("kind", KINDS)
        return {**super()._event(version, is_tcp, extra), f"{protocol}_EVENT_TYPE": kind}
