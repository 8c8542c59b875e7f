"""The Netlink collector: every Linux, any user."""

from probe.sources.netlink.collector import NetlinkCollector

__all__ = ["NetlinkCollector"]
