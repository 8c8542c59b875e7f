"""Reads memory that the kernel half fills: the snapshot array and the ring buffers.

Mapped BPF memory counts in VmRSS, so each is mapped in windows as large as what is to be read.
Rows are copied as opaque octets. numpy would copy structures field by field, forty times slower.
"""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

from probe.flow.rows import Rows, concatenate_rows

_PAGE = mmap.PAGESIZE
_WINDOW = 1 << 20
_BUSY = 1 << 31
_HEADER = np.dtype([("length", "u4"), ("offset", "u4")])


def map_array(fd: int, dtype: np.dtype[np.void], count: int) -> Rows:
    """Returns the first ``count`` values of a BPF_F_MMAPABLE array, without a copy.

    The next pass in the kernel changes them. The last reference to them unmaps them.
    """
    if count == 0:
        return np.empty(0, dtype)
    length = -(-count * dtype.itemsize // _PAGE) * _PAGE
    return np.frombuffer(mmap.mmap(fd, length, mmap.MAP_SHARED), dtype, count)


def _opaque(dtype: np.dtype[np.void]) -> np.dtype[np.void]:
    return np.dtype((np.void, dtype.itemsize))


def map_words(fd: int, count: int) -> NDArray[np.uint64]:
    """Returns an array of words like ``map_array``. User space may write to it."""
    return np.frombuffer(mmap.mmap(fd, -(-count * 8 // _PAGE) * _PAGE), np.uint64, count)


class Ring:
    """A BPF ring buffer whose records have one dtype. They are read as arrays, never one by one.

    Layout (kernel/bpf/ringbuf.c): a consumer page, a producer page, the data mapped twice.

        consumer position         producer position
              v                         v
        ------[record|record|record|busy]------      a read ends at the first busy record
    """

    def __init__(self, fd: int, size: int, dtype: np.dtype[np.void]) -> None:
        self._fd = fd
        self._mask = size - 1
        stride = 8 + -(-dtype.itemsize // 8) * 8
        self._record = np.dtype(
            {"names": ["header", "row"], "formats": [_HEADER, _opaque(dtype)], "offsets": [0, 8],
             "itemsize": stride}
        )  # fmt: skip
        self._dtype = dtype
        self._consumer_page = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED)
        self._producer_page = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)
        self._consumer = np.frombuffer(self._consumer_page, "u8", 1)
        self._producer = np.frombuffer(self._producer_page, "u8", 1)

    def read(self) -> Rows:
        """Returns all complete records, oldest first, and gives their room back to the kernel."""
        parts = []
        while True:
            rows = self._read_window()
            if len(rows) == 0:
                break
            parts.append(rows)
        return concatenate_rows(parts) if parts else np.empty(0, self._dtype)

    @property
    def holds_more(self) -> bool:
        """Returns, after a ``read``, whether a program has begun a record and not finished it."""
        return int(self._producer[0]) > int(self._consumer[0])

    def _read_window(self) -> Rows:
        position = int(self._consumer[0])
        count = min(int(self._producer[0]) - position, _WINDOW) // self._record.itemsize
        if count <= 0:
            return np.empty(0, self._dtype)
        start = position & self._mask
        skip = start % _PAGE
        length = -(-(skip + count * self._record.itemsize) // _PAGE) * _PAGE
        with mmap.mmap(
            self._fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=2 * _PAGE + start - skip
        ) as window:
            records = np.frombuffer(window, self._record, count, skip)
            busy = records["header"]["length"] & _BUSY
            if busy.any():
                count = int(np.argmax(busy != 0))
            rows: Rows = records["row"][:count].copy().view(self._dtype)
            del records, busy
        self._consumer[0] = position + count * self._record.itemsize
        return rows

    def close(self) -> None:
        del self._consumer, self._producer
        self._consumer_page.close()
        self._producer_page.close()
