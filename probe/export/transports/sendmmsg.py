"""Calls sendmmsg(2), which Python lacks: it sends many datagrams of a connected socket.

``load`` prepares the headers for all messages of a train at once. With a pace, many calls follow
for each train, each with a cold processor cache. So ``send`` has little to do.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import Structure, c_int, c_size_t, c_uint, c_void_p

import numpy as np

#: Messages of one call at most: UIO_MAXIOV.
MOST = 1024


class _Message(Structure):
    """struct msghdr."""

    _fields_ = [("name", c_void_p), ("name_length", c_uint), ("vectors", c_void_p),
                ("vector_count", c_size_t), ("control", c_void_p), ("control_length", c_size_t),
                ("flags", c_int)]  # fmt: skip


class _Header(Structure):
    """struct mmsghdr. The kernel sets ``sent``."""

    _fields_ = [("message", _Message), ("sent", c_uint)]


#: The same as columns. sizeof(_Header) is 64 if pointers have 64 bits.
_HEADERS = np.dtype(_Header)


class ManyMessages:
    """The headers for the messages of one train, which must be loaded before it is sent."""

    def __init__(self) -> None:
        self._send = ctypes.CDLL(None, use_errno=True).sendmmsg
        self._send.argtypes = [c_int, c_void_p, c_uint, c_int]
        self._room = 0
        self._grow(64)

    def load(self, octets: memoryview, size: int) -> None:
        """Prepares to send messages of ``size`` octets, of which the last may be shorter.

        ``octets`` must stay in memory until all messages have left.
        """
        count = -(-len(octets) // size)
        if count > self._room:
            self._grow(2 * count)
        start = np.frombuffer(octets, np.uint8).ctypes.data
        self._vectors[:count, 0] = np.arange(start, start + len(octets), size)
        self._vectors[:count, 1] = size
        self._vectors[count - 1, 1] = len(octets) - (count - 1) * size

    def send(self, fd: int, first: int, count: int) -> int:
        """Sends ``count`` messages, from number ``first`` on (counted from 0).

        Returns how many left. If fewer than ``count`` did, the others must be tried again. Raises
        OSError if none left.
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
