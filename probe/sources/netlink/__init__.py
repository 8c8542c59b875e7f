"""The Netlink collector, which meters TCP for any user since Linux 4.2."""

from probe.sources.netlink.source import NetlinkSource

__all__ = ["NetlinkSource"]
