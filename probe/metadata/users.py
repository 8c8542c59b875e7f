"""Names of users and groups: looked up in the host's databases, each number once."""

from __future__ import annotations

import grp
import pwd
from functools import lru_cache


class UserNames:
    """Callable uid -> name; '' for a uid without one. Names are kept for the life of the probe.

    A uid inside a container means whatever the container says; the host's name for it is shown,
    as ``ps`` on the host does.
    """

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def __call__(self, uid: int) -> str:
        name = self._names.get(uid)
        if name is None:
            name = self._names[uid] = _look_up(uid)
        return name


def _look_up(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return ""


@lru_cache(4096)
def group_name(gid: int) -> str:
    """'' for a gid without one; as with users, the host's name for it."""
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return ""
