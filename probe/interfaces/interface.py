"""An interface of the probe's network namespace, as IF-MIB describes it, and its counters."""

from __future__ import annotations

from dataclasses import dataclass

from probe.flow.owner import ContainerNames


@dataclass(frozen=True, slots=True)
class Counters:
    """Counters of the host's side, as rtnetlink has them (struct rtnl_link_stats64).

    A veth receives what its container sends. in_packets counts all received packets, with
    multicast. in_discards counts those that the kernel dropped, or for which the device had no
    room.
    """

    in_octets: int = 0
    in_packets: int = 0
    in_multicast: int = 0
    in_errors: int = 0
    in_discards: int = 0
    out_octets: int = 0
    out_packets: int = 0
    out_errors: int = 0
    out_discards: int = 0


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface with all that the probe knows about it.

    type, oper_status: numbers of IANAifType-MIB and of ifOperStatus. speed: bits a second, 0 if
    unknown. kind, peer, peer_nsid: as in rtnetlink's ``Link``. master: the index of the bridge that
    it is a port of, 0 for none. inner_name: the name of a veth's peer inside the container. names:
    those of the container behind it, None if unknown. changed_s: the Unix time when its status last
    changed. since_s: the Unix time from which its counters count. is_gone: True for an ended
    interface, with its last counters; it ended at changed_s.
    """

    index: int
    name: str
    alias: str = ""
    kind: str = ""
    type: int = 1
    mtu: int = 0
    speed: int = 0
    address: bytes = b""
    is_admin_up: bool = False
    oper_status: int = 4
    is_promiscuous: bool = False
    peer: int = 0
    peer_nsid: int = -1
    master: int = 0
    inner_name: str = ""
    container_id: str = ""
    names: ContainerNames | None = None
    changed_s: float = 0.0
    since_s: float = 0.0
    counters: Counters = Counters()
    is_gone: bool = False
