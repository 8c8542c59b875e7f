"""pyroute2's message classes without the rest of pyroute2.

``pyroute2/__init__.py`` imports all that the package has: asyncio, DHCP, nftables, WireGuard and
some 230 modules more. They would cost 12 MB of the probe's memory and 19 MB of the SNMP agent's;
the message classes alone cost 1 and 2 MB (docs/decisions/0030 has the figures). So a bare
package stands in while these classes are imported. Afterwards ``sys.modules`` is as it was: whoever
imports pyroute2 in the same process gets the whole package, and copies of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator

_PACKAGE = "pyroute2"


@contextlib.contextmanager
def _bare_package() -> Iterator[None]:
    """Lets modules of pyroute2 be imported without the package's own ``__init__``."""
    spec = importlib.util.find_spec(_PACKAGE)
    if _PACKAGE in sys.modules or spec is None or spec.submodule_search_locations is None:
        yield  # somebody has it already, or it is not installed
        return
    package = types.ModuleType(_PACKAGE)
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[_PACKAGE] = package
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == _PACKAGE]:
            del sys.modules[name]


with _bare_package():
    from pyroute2.netlink import nla, nlmsg
    from pyroute2.netlink.exceptions import NetlinkDecodeError
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
    from pyroute2.netlink.rtnl.nsidmsg import nsidmsg

__all__ = ["NetlinkDecodeError", "ifaddrmsg", "ifinfmsg", "nla", "nlmsg", "nsidmsg"]
