"""Maps flow columns and owner attributes to Information Elements; no other package knows both.

The encoder copies numbers column by column into packed big-endian arrays. It encodes the attributes
of an owner once per side, then gathers them by index.
"""

from __future__ import annotations

from probe.mapping.definitions import for_biflow, for_netflow9
from probe.mapping.encoder import Encoder
from probe.mapping.files import (
    load_elements,
    load_netflow9,
    load_options,
    load_registry,
    load_template,
)
from probe.mapping.profiles import Profile, load_profile, load_profiles
from probe.mapping.tables import Privacy

__all__ = [
    "Encoder",
    "Privacy",
    "Profile",
    "for_biflow",
    "for_netflow9",
    "load_elements",
    "load_netflow9",
    "load_options",
    "load_profile",
    "load_profiles",
    "load_registry",
    "load_template",
]
