"""The Netlink collector: every Linux, any user."""

from probe.sources.netlink.source import NetlinkSource

__all__ = ["NetlinkSource"]
