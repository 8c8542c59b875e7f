"""Writes lines of text to a file or to standard output, from a bounded queue and without blocking.

Lines are appended whole: what a full disk cuts off is removed and written later.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import select
import stat
import time
from collections.abc import Sequence

import numpy as np

from probe.errors import ConfigError
from probe.export.transports.destination import STDOUT, Destination
from probe.export.transports.queue import StreamQueue
from probe.export.transports.reach import Retry, reason_of
from probe.export.transports.statistics import SendStatistics
from probe.export.transports.stream_sender import Wait
from probe.ipfix.message import Train
from probe.opening import open_output

_MODE = 0o640  # names of users and processes are in it
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
#: Room for some 16 000 flows, which may come at once when the probe ends.
DEFAULT_LINE_QUEUE_OCTETS = 32 << 20
#: Lines that are queued, dropped and counted together.
_LOT = 64
#: Octets that one ``pump`` writes at most, so that the other work of the probe continues.
_PUMP_OCTETS = 4 << 20
_WRITE_OCTETS = 1 << 18

_log = logging.getLogger(__name__)


class LineWriter:
    """A writer of lines, with methods like those of a Sender.

    Raises ConfigError if the path cannot be written to.
    """

    def __init__(
        self, destination: Destination, queue_octets: int = DEFAULT_LINE_QUEUE_OCTETS
    ) -> None:
        self.destination = destination
        self.statistics = SendStatistics()
        self._queue = StreamQueue(queue_octets)
        self._queue_octets = queue_octets
        self._retry = Retry(destination, self.statistics)
        self._wait = Wait()
        self._output: _Output | None = None
        self._is_failing_now = self._is_overflowing = False
        try:
            self._output = _open(destination.path)
        except OSError as error:
            raise ConfigError(f"destination {destination}: {reason_of(error)}") from None

    @property
    def is_down(self) -> bool:
        """True if the last write failed."""
        return self._is_failing_now

    @property
    def backlog(self) -> int:
        return self._queue.waiting

    def enqueue(self, lines: Sequence[str], packets: int = 0, octets: int = 0) -> None:
        """Takes ``lines``, which have no newline at their ends.

        ``packets`` and ``octets`` are the sums over the flows in them. When the queue is full, the
        newest lines are dropped and counted.
        """
        for train in _trains(lines, packets, octets):
            if self._queue.offer(train) or self._make_room(train):
                continue
            self.statistics.count_dropped([train])
            if not self._is_overflowing:
                self._is_overflowing = True
                waiting = self._queue.octets
                text = "%s: %d octets wait already; what comes is dropped until there is room"
                _log.warning(text, self.destination, waiting)

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

    def reopen(self) -> None:
        """Continues in the file at the path: log rotation may have moved the old one away."""
        if self.destination.path == STDOUT:
            return
        self._close_output()
        self._retry.retry_at = 0.0

    def flush(self, deadline: float) -> bool:
        """Writes until nothing waits or ``deadline`` (monotonic s). Stops if a write fails.

        Returns True if all was written.
        """
        while self._queue and (now := time.monotonic()) < deadline:
            due = self.pump(now)
            if self.is_down:
                break
            if self._queue and due:
                time.sleep(max(0.0, min(due, deadline) - time.monotonic()))
        return not self._queue

    def close(self) -> None:
        self._close_output()
        self.statistics.count_dropped(self._queue.drain())

    def _make_room(self, train: Train) -> bool:
        """Writes at once to make room, because a flush of the cache may exceed the queue.

        Returns True if ``train`` was queued.
        """
        self.pump(time.monotonic())
        return self._queue.offer(train)

    def _advance(self, now: float) -> float | None:
        if self._output is None:
            self._output = _open(self.destination.path)
        more = self._write_waiting(self._output)
        self._is_failing_now = False
        self._retry.works(now)
        self._retry.notice_recovery(now)
        if 2 * self._queue.octets <= self._queue_octets:
            self._is_overflowing = False
        if not self._queue:
            return None
        return now if more else self._wait.next(now)

    def _write_waiting(self, output: _Output) -> bool:
        """Writes what waits. Returns True if more may be written at once.

        Raises OSError if a write fails; no partial lot is then left in the file.
        """
        room = _PUMP_OCTETS
        while room > 0 and (pieces := self._queue.pieces(min(room, _WRITE_OCTETS))):
            try:
                written = output.write(pieces)
            except OSError:
                self._cut_partial(output)
                raise
            self._queue.take(written)
            self.statistics.count_sent(self._queue.acknowledge(0))
            if written:
                self._wait.progress()
            elif not output.is_regular:
                return False
            room -= written
        return True

    def _cut_partial(self, output: _Output) -> None:
        """Removes a partial lot from the end of the file, and queues it again."""
        if self._queue.taken and output.is_regular:
            output.shorten(self._queue.taken)
            self._queue.rewind(keep_all=True)

    def _close_output(self) -> None:
        if self._output is None:
            return
        try:
            self._cut_partial(self._output)
        except OSError as error:
            self._retry.fail(reason_of(error), time.monotonic())
        self._output.close()
        self._output = None


class _Output:
    """A descriptor that is written to without blocking: a file, a pipe, a terminal or a socket."""

    def __init__(self, file: int, waits: bool) -> None:
        self._file = file
        self.is_regular = stat.S_ISREG(os.fstat(file).st_mode)
        #: Used if the descriptor may not be made non-blocking, because other processes share it.
        self._poll = select.poll() if waits and not self.is_regular else None
        if self._poll:
            self._poll.register(file, select.POLLOUT)

    def write(self, pieces: list[memoryview]) -> int:
        """Returns the number of octets written; 0 if none can be written at present."""
        if self._poll:
            if not self._poll.poll(0):
                return 0
            pieces = [pieces[0][: select.PIPE_BUF]]  # poll guarantees room for so much
        try:
            return os.writev(self._file, pieces)
        except BlockingIOError:
            return 0

    def shorten(self, octets: int) -> None:
        os.ftruncate(self._file, os.fstat(self._file).st_size - octets)

    def close(self) -> None:
        os.close(self._file)


def _open(path: str) -> _Output:
    """Opens the output. Raises OSError if that fails or another writer has locked the file."""
    if path == STDOUT:
        return _open_stdout()
    file = open_output(path, _FLAGS, _MODE)
    output = _Output(file, waits=False)
    try:
        if output.is_regular:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        output.close()
        raise OSError(errno.EBUSY, "another destination or probe writes to this file") from None
    return output


def _open_stdout() -> _Output:
    """Opens standard output again: O_NONBLOCK on the given one would affect all its users."""
    try:
        return _Output(os.open("/proc/self/fd/1", _FLAGS), waits=False)
    except OSError:  # a socket, or the terminal of another user
        return _Output(os.dup(1), waits=True)


def _trains(lines: Sequence[str], packets: int, octets: int) -> list[Train]:
    """Returns ``lines`` in lots.

    Packets and octets are divided in proportion to the lines; their sums are exact.
    """
    found, count = [], len(lines)
    for start in range(0, count, _LOT):
        lot = lines[start : start + _LOT]
        end = start + len(lot)
        text = memoryview(("\n".join(lot) + "\n").encode())
        shares = [whole * end // count - whole * start // count for whole in (packets, octets)]
        found.append(Train(text, len(text), np.array([len(lot)], np.int64), *shares))
    return found
