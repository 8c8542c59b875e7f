"""Builds the JSON object for the counters of an interface, with the names of IF-MIB."""

from __future__ import annotations

from probe.flow.label import names_label
from probe.flow.owner import ContainerNames, Pod
from probe.interfaces.interface import Interface


def interface_object(
    link: Interface, now_s: float, exporter_address: str, key: str = "KUBE"
) -> dict[str, object]:
    """Returns the object of an interface at ``now_s`` (Unix time).

    It has a LOCAL_CONTAINER if a container is behind the interface; ``key`` is the member that
    holds the container's Pod. "In" is the traffic that the container sends. EXPORTER_IPV4_ADDRESS
    is left out if ``exporter_address`` is ''. A link that is gone has the time of its end.
    """
    counters = link.counters
    found: dict[str, object] = {
        "timestamp": f"{link.changed_s if link.is_gone else now_s:.6f}",
        "ifName": link.name,
        "ifIndex": link.index,
    }
    if link.container_id:
        found["LOCAL_CONTAINER"] = container_object(link.container_id, link.names, key)
    found |= {
        "ifInOctets": counters.in_octets,
        "ifInPackets": counters.in_packets,
        "ifInErrors": counters.in_errors,
        "ifInDrops": counters.in_discards,
        "ifOutOctets": counters.out_octets,
        "ifOutPackets": counters.out_packets,
        "ifOutErrors": counters.out_errors,
        "ifOutDrops": counters.out_discards,
    }
    if link.is_gone:
        found["ifOperStatus"] = "notPresent"
    if exporter_address:
        found["EXPORTER_IPV4_ADDRESS"] = exporter_address
    return found


def container_object(
    container_id: str, names: ContainerNames | None, key: str = "KUBE"
) -> dict[str, object]:
    """Returns {KUBE{NAME,POD,NS}} for a container in a Pod, else {DOCKER{NAME}}.

    NAME is the beginning of the id if no runtime knows the container.
    """
    pod = names.pod if names else Pod()
    if names and pod.name:
        return {key: {"NAME": names.name or pod.name, "POD": pod.name, "NS": pod.namespace}}
    return {"DOCKER": {"NAME": names_label(container_id, names)}}
