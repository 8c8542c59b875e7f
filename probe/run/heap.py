"""What the C library does with memory that is freed."""

from __future__ import annotations

import ctypes

#: malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_OCTETS = 8 << 20
_MAPPED_OCTETS = 1 << 20


def keep_freed() -> None:
    """Let up to 8 MB that are freed stay with the process, for they are needed again at once.

    Messages of a tick are made, sent and freed; each page that went back to the kernel meanwhile
    costs a fault, together more than encoding does. What is longer than 1 MB still goes back.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # glibc; others have their own ways
        mallopt(_M_TRIM_THRESHOLD, _KEPT_OCTETS)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_OCTETS)
