"""Makes the probe's status, which ntopng shows. It also sets how long ntopng keeps flows."""

from __future__ import annotations

from typing import Any

from probe.config import RunConfig
from probe.export.self_report import Metering
from probe.export.transports.statistics import SendStatistics
from probe.flow.rows import Rows
from probe.ntopng import topics

_BITS = 8
#: Causes of losses whose counts are packets.
_OF_PACKETS = ("packets_after_end", "udp_peers_full", "unstored_datagrams")
_MEGA = 1_000_000


class Status:
    """The status. ``speed``: bits a second of the fastest interface, 0 if unknown."""

    def __init__(
        self,
        config: RunConfig,
        metering: Metering,
        sent: SendStatistics,
        source_id: int,
        address: str,
    ) -> None:
        self.speed = 0
        self._config = config
        self._metering = metering
        self._sent = sent
        self._probe = topics.probe_object(source_id, address)
        self._octets = self._packets = 0
        self._before: tuple[float, int, int] | None = None

    def count(self, records: Rows) -> None:
        self._octets += int(records["octets"].sum())
        self._packets += int(records["packets"].sum())

    def read(self, now_s: float) -> dict[str, Any]:
        """Returns totals since the start, and averages since the last status (Unix time)."""
        losses = self._metering.figures().losses
        timeout = round(self._config.active_timeout)
        return {
            "time": int(now_s),
            "mode": "sockets",
            "bytes": self._octets,
            "packets": self._packets,
            "packet_drops": sum(losses.get(cause, 0) for cause in _OF_PACKETS)
            + self._sent.dropped_packets,
            "iface": {
                "name": "sockets",
                "speed": self.speed // _MEGA,
                "ip": self._probe["ip"],
            },
            "probe": self._probe,
            "avg": self._averages(now_s),
            # With fewer than all three, ntopng drops flows that are silent for ten seconds.
            "timeout": {
                "lifetime": timeout,
                "idle": round(self._config.idle_timeout),
                "collected_lifetime": timeout,
            },
            "drops": topics.drops_object(self._sent.dropped_flow_records, losses),
            "zmq": {
                "num_flow_exports": self._sent.sent_flow_records,
                "num_zmq_exporters": 1,
            },
        }

    def _averages(self, now_s: float) -> dict[str, int]:
        """Returns the averages since the last call; 0 if no time has passed since then."""
        before_s, octets, packets = self._before or (now_s, self._octets, self._packets)
        elapsed_s = now_s - before_s
        self._before = (now_s, self._octets, self._packets)
        if elapsed_s <= 0:
            return {"bps": 0, "pps": 0}
        return {
            "bps": round(_BITS * (self._octets - octets) / elapsed_s),
            "pps": round((self._packets - packets) / elapsed_s),
        }
