"""sendmmsg(2), which Python does not have: many datagrams of a connected socket in one call."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, Structure, c_int, c_size_t, c_uint, c_void_p

import numpy as np

#: Messages of one call.
MOST = 64


class _Message(Structure):
    """struct msghdr."""

    _fields_ = [("name", c_void_p), ("name_length", c_uint), ("vectors", c_void_p),
                ("vector_count", c_size_t), ("control", c_void_p), ("control_length", c_size_t),
                ("flags", c_int)]  # fmt: skip


class _Header(Structure):
    """struct mmsghdr: ``sent`` is what the kernel says."""

    _fields_ = [("message", _Message), ("sent", c_uint)]


class ManyMessages:
    """The headers of ``MOST`` messages, of which only the octets change from call to call."""

    def __init__(self) -> None:
        self._send = ctypes.CDLL(None, use_errno=True).sendmmsg
        self._send.argtypes = [c_int, POINTER(_Header), c_uint, c_int]
        self._vectors = np.zeros((MOST, 2), np.uintp)  # struct iovec: address, length
        self._places = np.arange(MOST).astype(np.uintp)
        self._headers = (_Header * MOST)()
        for place, header in enumerate(self._headers):
            header.message.vectors = self._vectors[place:].ctypes.data
            header.message.vector_count = 1

    def send(self, fd: int, octets: memoryview, size: int) -> int:
        """At most ``MOST`` messages of ``size`` octets, the last may be shorter; octets that left.

        Fewer than given: the rest is to be tried again. OSError where none left.
        """
        octets = octets[: MOST * size]
        count = -(-len(octets) // size)
        start = np.frombuffer(octets, np.uint8).ctypes.data
        self._vectors[:count, 0] = self._places[:count] * np.uintp(size) + np.uintp(start)
        self._vectors[:count, 1] = size
        self._vectors[count - 1, 1] = len(octets) - (count - 1) * size
        sent: int = self._send(fd, self._headers, count, 0)
        if sent < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return min(sent * size, len(octets))
