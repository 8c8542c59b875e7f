"""The Netlink collector: every Linux, any user."""

from probe.sources.netlink.source import NetlinkCollector

__all__ = ["NetlinkCollector"]
