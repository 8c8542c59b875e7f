"""Sets how the C library treats freed memory."""

from __future__ import annotations

import ctypes

#: malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_OCTETS = 8 << 20
_MAPPED_OCTETS = 1 << 20


def keep_freed() -> None:
    """Keeps up to 8 MB of freed memory in the process, since the next tick needs it again.

    Each tick makes, sends and frees messages. Pages that go back to the kernel in between cost
    faults, which take longer than encoding. Blocks of more than 1 MB still go back.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # only glibc has it
        mallopt(_M_TRIM_THRESHOLD, _KEPT_OCTETS)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_OCTETS)
