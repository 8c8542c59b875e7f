"""sendmmsg(2), which Python does not have: many datagrams of a connected socket in one call.

What a call needs is laid out for a whole train at once. A pace makes many calls for each, on a
processor whose cache others have filled meanwhile, so a call should have little to do.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import Structure, c_int, c_size_t, c_uint, c_void_p

import numpy as np

#: Messages of one call: UIO_MAXIOV.
MOST = 1024


class _Message(Structure):
    """struct msghdr."""

    _fields_ = [("name", c_void_p), ("name_length", c_uint), ("vectors", c_void_p),
                ("vector_count", c_size_t), ("control", c_void_p), ("control_length", c_size_t),
                ("flags", c_int)]  # fmt: skip


class _Header(Structure):
    """struct mmsghdr: ``sent`` is what the kernel says."""

    _fields_ = [("message", _Message), ("sent", c_uint)]


#: The same as columns; sizeof(_Header) is 64 where pointers have 64 bits.
_HEADERS = np.dtype(_Header)


class ManyMessages:
    """The headers of the messages of a train, which has to be loaded before any can be sent."""

    def __init__(self) -> None:
        self._send = ctypes.CDLL(None, use_errno=True).sendmmsg
        self._send.argtypes = [c_int, c_void_p, c_uint, c_int]
        self._room = 0
        self._grow(64)

    def load(self, octets: memoryview, size: int) -> None:
        """Messages of ``size`` octets, the last may be shorter. They must live until they left."""
        count = -(-len(octets) // size)
        if count > self._room:
            self._grow(2 * count)
        start = np.frombuffer(octets, np.uint8).ctypes.data
        self._vectors[:count, 0] = np.arange(start, start + len(octets), size)
        self._vectors[:count, 1] = size
        self._vectors[count - 1, 1] = len(octets) - (count - 1) * size

    def send(self, fd: int, first: int, count: int) -> int:
        """Messages that left, of ``count`` from the ``first`` on (from 0).

        Fewer than given: the rest is to be tried again. OSError where none left.
        """
        sent: int = self._send(fd, self._start + first * _HEADERS.itemsize, min(count, MOST), 0)
        if sent < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return sent

    def _grow(self, room: int) -> None:
        self._room = room
        self._vectors = np.zeros((room, 2), np.uintp)  # struct iovec: address, length
        self._headers = np.zeros(room, _HEADERS)
        messages = self._headers["message"]
        start, each = self._vectors.ctypes.data, self._vectors.strides[0]
        messages["vectors"] = np.arange(start, start + room * each, each)
        messages["vector_count"] = 1
        self._start = self._headers.ctypes.data
