"""Converts what the kernel reports of a device to what IF-MIB has for it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from probe.netlink.rtnetlink import Link

_SYSFS = Path("/sys/class/net")
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_OTHER, _ETHERNET, _TUNNEL = 1, 6, 131
#: ARPHRD_* (include/uapi/linux/if_arp.h) -> IANAifType-MIB; all others are other(1).
_TYPES = {
    1: _ETHERNET,
    32: 199,  # InfiniBand
    256: 28,  # SLIP
    512: 23,  # PPP
    768: _TUNNEL,  # IP in IP
    769: _TUNNEL,
    772: 24,  # loopback
    776: _TUNNEL,  # sit
    778: _TUNNEL,  # GRE
    801: 71,  # IEEE 802.11
    802: 71,
    803: 71,
    823: _TUNNEL,  # GRE over IPv6
}
#: IANAifType-MIB by the kind of the driver, if the kernel's type is Ethernet or none.
_KINDS = {
    "bridge": 209,
    "vlan": 135,  # l2vlan
    "bond": 161,  # ieee8023adLag
    "team": 161,
    "vxlan": _TUNNEL,
    "geneve": _TUNNEL,
    "gretap": _TUNNEL,
    "ip6gretap": _TUNNEL,
    "tun": _TUNNEL,
    "wireguard": _TUNNEL,
}
#: IF_OPER_* -> ifOperStatus: unknown, notPresent, down, lowerLayerDown, testing, dormant, up.
_STATUS = (4, 6, 2, 7, 3, 5, 1)
_UP, _DOWN = 1, 2
#: The speed that the driver itself reports (veth_get_link_ksettings); pollers divide by it.
_VETH_SPEED = 10_000_000_000


def if_type(interface: Link) -> int:
    return _KINDS.get(interface.kind) or _TYPES.get(interface.type, _OTHER)


def oper_status(interface: Link) -> int:
    """Returns ifOperStatus.

    A driver without a state, such as that of the loopback, is up when its device is
    (Documentation/networking/operstates.rst).
    """
    if interface.state:
        return _STATUS[interface.state] if interface.state < len(_STATUS) else _STATUS[0]
    if not interface.flags & _IFF_UP:
        return _DOWN
    return _UP if interface.flags & _IFF_LOWER_UP else _STATUS[0]


def read_speed(interface: Link, sysfs: Path = _SYSFS) -> int:
    """Returns bits a second, 0 if unknown.

    Hardware has the speed that its driver reports, and a veth has 10 Gbit/s.
    """
    if interface.kind:
        return _VETH_SPEED if interface.kind == "veth" else 0
    with contextlib.suppress(OSError, ValueError):
        device = sysfs / interface.name
        if int((device / "ifindex").read_text()) == interface.index:  # else of another namespace
            return max(0, int((device / "speed").read_text())) * 1_000_000
    return 0
