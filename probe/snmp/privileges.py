"""Gives up privileges: the agent reads only public data, and its socket is open already."""

from __future__ import annotations

import ctypes
import os

_NOBODY = 65534
# include/uapi/linux/prctl.h, capability.h
_PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS = 8, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_READ_SEARCH = 1 << 2


def keep_reading() -> None:
    """Turns root into nobody who may still read every file. Anybody else keeps what they have.

    Raises OSError if the kernel refuses.
    """
    if os.geteuid() != 0:
        return
    held = _permitted() & _CAP_DAC_READ_SEARCH  # root of a container may lack it
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    _set_capabilities(held)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_privileges() -> None:
    """Gives up every capability, also those that were lent to a user. Raises OSError."""
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _set_capabilities(0)


def _prctl(option: int, value: int) -> None:
    _check(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0))


def _permitted() -> int:
    """Returns the first 32 capabilities that this process may use, as bits."""
    header, held = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _check(ctypes.CDLL(None, use_errno=True).capget(header, held))
    return int(held[1])  # order: effective, permitted, inheritable; then the upper halves


def _set_capabilities(bits: int) -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    wanted = (ctypes.c_uint32 * 6)(bits, bits, 0, 0, 0, 0)
    _check(ctypes.CDLL(None, use_errno=True).capset(header, wanted))


def _check(refused: int) -> None:
    if refused:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
