"""The Netlink collector: every Linux, any user."""

from .collector import NetlinkCollector

__all__ = ["NetlinkCollector"]
