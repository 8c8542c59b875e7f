"""What people are shown of an interface: ifAlias and ifDescr with the container behind it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

MOST_ALIAS_OCTETS = 64  # RFC 2863: ifAlias is SnmpAdminString (SIZE(0..64))
_MOST_DESCRIPTION_OCTETS = 255
_HASH_DIGITS = 6
_CUT = "…"


@dataclass(frozen=True, slots=True)
class Behind:
    """Who is behind an interface. ``container``: namespace/pod/container, the name, or the
    beginning of the id; ``inner_name``: what the other end is called there."""

    container: str = ""
    inner_name: str = ""


def shorten(text: str, most: int = MOST_ALIAS_OCTETS) -> str:
    """``text`` in at most ``most`` octets of UTF-8. Longer ones lose their beginning, which many
    have in common, and end in a short hash of the whole, so that no two become the same."""
    octets = text.encode("utf-8", "replace")
    if len(octets) <= most:
        return octets.decode()
    digest = "~" + hashlib.sha256(octets).hexdigest()[:_HASH_DIGITS]
    room = most - len(_CUT.encode()) - len(digest)
    return _CUT + octets[-room:].decode("utf-8", "ignore") + digest


def describe(name: str, behind: Behind) -> str:
    """'veth40297a6 (eth0 in shop/web-1/nginx)'."""
    if not behind.container:
        return name
    inside = f"{behind.inner_name} in " if behind.inner_name else ""
    return shorten(f"{name} ({inside}{behind.container})", _MOST_DESCRIPTION_OCTETS)
