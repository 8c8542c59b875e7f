"""What the agent's process gives up: all that it reads is for everybody, and its socket is open."""

from __future__ import annotations

import ctypes
import os

_NOBODY = 65534
# include/uapi/linux/prctl.h, capability.h
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522


def drop_privileges() -> None:
    """Root becomes nobody; a user who was lent capabilities keeps none. Raises OSError."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    library = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    for refused in (
        library.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0),
        library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        library.capset(header, (ctypes.c_uint32 * 6)()),
    ):
        if refused:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
