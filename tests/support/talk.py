"""Paths of the fields of each JSON example of the talk."""

from __future__ import annotations

from typing import Any

PROCESS = {"PID", "UID", "UID_NAME", "GID", "GID_NAME", "VM_SIZE", "VM_PEAK", "PROCESS_PATH"}
FATHER = {"PID", "UID", "UID_NAME", "GID", "PROCESS_PATH"}
ENDS = {
    "timestamp", "IP_PROTOCOL_VERSION", "PROTOCOL", "L4_LOCAL_PORT", "L4_REMOTE_PORT",
    "IPV4_LOCAL_ADDR", "IPV4_REMOTE_ADDR", "EXPORTER_IPV4_ADDRESS",
}  # fmt: skip
WHO = {
    "LOCAL_PROCESS", "LOCAL_FATHER_PROCESS", *(f"LOCAL_PROCESS.{name}" for name in PROCESS),
    *(f"LOCAL_FATHER_PROCESS.{name}" for name in FATHER),
}  # fmt: skip
KUBE = {"LOCAL_CONTAINER"} | {
    f"LOCAL_CONTAINER.KUBE{name}" for name in ("", ".NAME", ".POD", ".NS")
}
DOCKER = {f"LOCAL_CONTAINER{name}" for name in ("", ".DOCKER", ".DOCKER.NAME")}
COUNTERS = {
    "timestamp", "ifName", "ifIndex", "ifInOctets", "ifInPackets", "ifInErrors", "ifInDrops",
    "ifOutOctets", "ifOutPackets", "ifOutErrors", "ifOutDrops", "EXPORTER_IPV4_ADDRESS",
}  # fmt: skip
TCP = {"TCP"} | {
    f"TCP.{name}"
    for name in (
        "CONN_STATE", "RETRAN_PKTS", "UNACK_SEGMENTS", "LOST_PKTS", "SEGS_IN", "SEGS_OUT",
        "BYTES_RCVD", "RTT", "RTT_VARIANCE", "CURRENT_RATE", "DELIVERY_RATE",
    )
}  # fmt: skip


def pieces(found: Any, prefix: str = "") -> set[str]:
    """Returns the paths of all fields."""
    if not isinstance(found, dict):
        return set()
    below = set().union(*(pieces(value, f"{prefix}{key}.") for key, value in found.items()))
    return {f"{prefix}{key}" for key in found} | below
