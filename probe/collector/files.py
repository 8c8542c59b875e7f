"""Reads files of IPFIX Messages (RFC 5655), such as ``sockflow run -e file://...`` writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from io import BufferedReader, FileIO

from probe.errors import ConfigError, DecodeError
from probe.ipfix.decode import CollectingProcess, Decoded
from probe.ipfix.stream import MessageStream

_CHUNK = 1 << 18
_NAMED_PROBLEMS = 10


class MessageFile:
    """One file, which is a Transport Session of its own; '-' is standard input.

    The valid parts of a broken message are read. Reading ends where no message begins.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.problem_count = 0
        self._problems: list[str] = []

    def __str__(self) -> str:
        return self.path

    def check(self) -> None:
        """Raises ConfigError if the file cannot be opened."""
        with self._open():
            pass

    def read(self, process: CollectingProcess) -> Iterator[Decoded]:
        """Yields the records of each message, in the order of the file. Counts errors."""
        stream = MessageStream()
        with self._open() as file:
            try:
                while octets := file.read1(_CHUNK):
                    for offset, message in stream.feed(octets):
                        decoded = process.decode_message(message, self, is_reliable=True)
                        for loss in decoded.losses:
                            self._note(offset, f"broken message: {loss}")
                        yield decoded
                if stream.unread:
                    raise DecodeError(f"the file ends {stream.unread} octets into a message")
            except (DecodeError, OSError) as error:
                process.statistics.errors += 1
                self._note(stream.offset, f"{error}; nothing was read from there on")
        process.forget(self)

    def summary(self) -> list[str]:
        """Returns lines on the first problems with their offsets, and on the number of others."""
        more = self.problem_count - len(self._problems)
        last = [f"{self.path}: {more} more broken messages"] if more else []
        return [f"{self.path}: {problem}" for problem in self._problems] + last

    def _note(self, at: int, problem: str) -> None:
        self.problem_count += 1
        if len(self._problems) < _NAMED_PROBLEMS:
            self._problems.append(f"offset {at}: {problem}")

    def _open(self) -> AbstractContextManager[BufferedReader]:
        try:
            if self.path == "-":
                return nullcontext(BufferedReader(FileIO(0, closefd=False)))
            return open(self.path, "rb")
        except OSError as error:
            raise ConfigError(f"--read: cannot open {self.path}: {error.strerror}") from None
