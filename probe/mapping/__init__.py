"""Flow columns and owner attributes as Information Elements: the only package that knows both.

Numbers are copied column by column into packed big-endian arrays. What belongs to an owner is
encoded once per owner and side, then gathered by index.
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
