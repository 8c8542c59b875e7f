"""Lines of text to a file or to standard output, from a bounded queue and never waiting.

Lines are appended, and none is torn: what a full disk cuts off is removed again and written later.
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
#: A lot of flows that the probe ends with: some 16 000.
DEFAULT_LINE_QUEUE_OCTETS = 32 << 20
#: Lines that are queued, dropped and counted together.
_LOT = 64
#: Octets that one pump writes, so that the probe's other work goes on.
_PUMP_OCTETS = 4 << 20
_WRITE_OCTETS = 1 << 18

_log = logging.getLogger(__name__)


class LineWriter:
    """As a Sender, of lines. ConfigError: the path cannot be written to."""

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
        """The last write failed."""
        return self._is_failing_now

    @property
    def backlog(self) -> int:
        return self._queue.waiting

    def enqueue(self, lines: Sequence[str], packets: int = 0, octets: int = 0) -> None:
        """Take ``lines`` without their ends; those of flows have ``packets`` and ``octets``
        together. The newest are dropped and counted when the queue is full."""
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
        """Write some of what waits; when to call again (monotonic s), None: nothing waits."""
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
        """Go on in a new file where the old one was moved away."""
        if self.destination.path == STDOUT:
            return
        self._close_output()
        self._retry.retry_at = 0.0

    def flush(self, deadline: float) -> bool:
        """Write until nothing waits or ``deadline`` (monotonic s); gives up when that fails."""
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
        """Write now, if that is possible: a flush of the cache is more than the queue holds."""
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
        """Whether more may be written at once. OSError: nothing of a lot is left in the file."""
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
        """Take the part of a lot at the file's end back into the queue."""
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
    """A descriptor that is written to without waiting, whatever is behind it."""

    def __init__(self, file: int, waits: bool) -> None:
        self._file = file
        self.is_regular = stat.S_ISREG(os.fstat(file).st_mode)
        #: Where the descriptor may not be made non-blocking, as others have it too.
        self._poll = select.poll() if waits and not self.is_regular else None
        if self._poll:
            self._poll.register(file, select.POLLOUT)

    def write(self, pieces: list[memoryview]) -> int:
        """Octets written; 0: it cannot take any now."""
        if self._poll:
            if not self._poll.poll(0):
                return 0
            pieces = [pieces[0][: select.PIPE_BUF]]  # so much fits, or poll would not say so
        try:
            return os.writev(self._file, pieces)
        except BlockingIOError:
            return 0

    def shorten(self, octets: int) -> None:
        os.ftruncate(self._file, os.fstat(self._file).st_size - octets)

    def close(self) -> None:
        os.close(self._file)


def _open(path: str) -> _Output:
    """Raises OSError."""
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
    """A description of our own: O_NONBLOCK on the one we were given would be everybody's."""
    try:
        return _Output(os.open("/proc/self/fd/1", _FLAGS), waits=False)
    except OSError:  # a socket, or somebody else's terminal
        return _Output(os.dup(1), waits=True)


def _trains(lines: Sequence[str], packets: int, octets: int) -> list[Train]:
    """Lots of ``lines``; packets and octets are shared by lines, and their sums are exact."""
    found, count = [], len(lines)
    for start in range(0, count, _LOT):
        lot = lines[start : start + _LOT]
        end = start + len(lot)
        text = memoryview(("\n".join(lot) + "\n").encode())
        shares = [whole * end // count - whole * start // count for whole in (packets, octets)]
        found.append(Train(text, len(text), np.array([len(lot)], np.int64), *shares))
    return found
