"""An interface of our network namespace, as IF-MIB describes it, and its counters."""

from __future__ import annotations

from dataclasses import dataclass

from probe.flow.owner import ContainerNames


@dataclass(frozen=True, slots=True)
class Counters:
    """Counters of the host's side, as rtnetlink has them (struct rtnl_link_stats64).

    What comes in of a veth is what its container sends. in_packets: all that came in, multicast
    included. in_discards: what the kernel dropped, and what the device had no room for.
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
    """An interface with all that we know about it.

    type, oper_status: numbers of IANAifType-MIB and of ifOperStatus. speed: bits a second, 0 when
    unknown. kind, peer, peer_nsid: as in rtnetlink's ``Link``. master: the index of the bridge that
    it is a port of, 0 for none. inner_name: what the peer of a veth is called in the container.
    names: those of the container behind it, None where nobody knows them. changed_s: the Unix time
    when its status last changed. since_s: the Unix time since when its counters count. is_gone:
    these are its last counters, and it went at changed_s.
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
