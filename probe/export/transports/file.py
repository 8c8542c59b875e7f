"""Writes messages to a file (RFC 5655), which ``sockflow collect --read`` and other tools read.

An existing file is appended to, so that a restart of the probe loses nothing. Each run writes its
Templates first, so a reader finds them before the records that need them. The sequence numbers
continue, because readers treat the file as one Transport Session.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import time

from probe.errors import ConfigError
from probe.export.transports.contents import Contents, next_sequence, read_contents
from probe.export.transports.destination import Destination
from probe.export.transports.reach import Retry, reason_of
from probe.export.transports.stream_sender import DEFAULT_STREAM_QUEUE_OCTETS, StreamSenderBase
from probe.opening import open_output

_MODE = 0o640  # names of users and processes are in it
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK

_log = logging.getLogger(__name__)


class FileSender(StreamSenderBase):
    """A sender that appends messages to a file.

    The file holds whole messages only: one that a full disk cut off is removed and written later.
    If the file is moved or removed meanwhile, a new one is made at its path. Raises ConfigError if
    the path cannot be written to, or is not a file of IPFIX messages.
    """

    def __init__(
        self, destination: Destination, queue_octets: int = DEFAULT_STREAM_QUEUE_OCTETS
    ) -> None:
        super().__init__(destination, queue_octets)
        self._path = destination.path
        self._retry = Retry(destination, self.statistics)
        self._file = -1
        self._found = Contents()
        self._is_failing_now = False
        try:
            self._open()
        except OSError as error:
            raise ConfigError(f"destination {destination}: {reason_of(error)}") from None

    @property
    def is_down(self) -> bool:
        """True if the last write failed."""
        return self._is_failing_now

    def pump(self, now: float) -> float | None:
        """Writes some of what waits.

        Returns when to call again (monotonic s), or None if nothing waits.
        """
        if not self._queue:
            return None
        if now < self._retry.retry_at:
            return self._retry.retry_at
        try:
            return self._advance(now)
        except OSError as error:
            self._is_failing_now = True
            self._retry.fail(reason_of(error), now)
            return self._retry.retry_at

    def flush(self, deadline: float) -> bool:
        """Writes all that waits, then syncs the disk, which may take longer than ``deadline``."""
        complete = super().flush(deadline)
        self._sync()
        return complete

    def first_sequence(self, domain: int) -> int:
        """Returns the sequence number with which the open file continues."""
        return next_sequence(self._file, self._found, domain)

    def local_address(self) -> tuple[str, int] | None:
        return None

    def close(self) -> None:
        try:
            self._close_file()
        except OSError as error:
            self._retry.fail(reason_of(error), time.monotonic())
        super().close()

    def _advance(self, now: float) -> float | None:
        if not self._is_in_place():
            self._close_file()
            self._open()
        if not self._is_announced:
            return self._wait.next(now)
        self._send_waiting()
        self._count_arrived(self._queue.acknowledge(0))
        self._is_failing_now = False
        self._retry.works(now)
        self._retry.notice_recovery(now)
        return now if self._queue else None

    def _write(self, pieces: list[memoryview]) -> int:
        """Writes all of ``pieces``.

        Raises OSError if that fails; the file is then cut back to whole messages.
        """
        written, length = 0, sum(map(len, pieces))
        while written < length:
            try:
                written += os.writev(self._file, pieces)
            except OSError:
                self._queue.take(written)
                self._cut_partial()
                raise
            if written < length:  # the next attempt raises the reason
                pieces = [memoryview(b"".join(pieces))[written:]]
        return length

    def _cut_partial(self) -> None:
        """Removes a partial message from the end of the file, and queues it again."""
        self._count_arrived(self._queue.acknowledge(0))
        if self._queue.taken:
            os.ftruncate(self._file, os.fstat(self._file).st_size - self._queue.taken)
        self._queue.rewind(keep_all=True)

    def _is_in_place(self) -> bool:
        """Returns True if the open file is still the one at the path."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return False
        return self._file >= 0 and os.path.samestat(found, os.fstat(self._file))

    def _open(self) -> None:
        """Opens the file, and locates its messages. Raises OSError if that fails."""
        file = open_output(self._path, _FLAGS, _MODE)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            _lock(file)
            self._found = read_contents(file)
            _trim(file, self._found, self._path)
        except OSError:
            os.close(file)
            raise
        self._file = file
        self._is_open, self._is_announced = True, False

    def _sync(self) -> None:
        try:
            if self._file >= 0:
                os.fsync(self._file)
        except OSError as error:
            self._retry.fail(reason_of(error), time.monotonic())

    def _close_file(self) -> None:
        self._is_open = self._is_announced = False
        if self._file < 0:
            return
        try:
            self._cut_partial()
            os.fsync(self._file)
        finally:
            os.close(self._file)
            self._file = -1


def _lock(file: int) -> None:
    """Locks the file: two writers would mix their sequence numbers. May raise OSError."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EBUSY, "another destination or probe writes to this file") from None


def _trim(file: int, found: Contents, path: str) -> None:
    """Cuts off a message that a crash left incomplete."""
    size = os.fstat(file).st_size
    if found.end < size:
        _log.warning("%s: cut off %d octets of an incomplete message", path, size - found.end)
        os.ftruncate(file, found.end)
