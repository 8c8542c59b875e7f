"""Tests files of messages: messages are whole and appended, whatever the disk does."""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from probe.errors import ConfigError
from probe.export.transports.destination import Destination
from probe.export.transports.file import FileSender
from probe.export.transports.sender import StreamSender
from probe.run.destinations import parse_destination
from tests.support.transport import TEMPLATES, begin_session, drive, message, numbers, train


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flows.ipfix"


def sender_to(path: Path, queue_octets: int = 4 << 20) -> FileSender:
    return FileSender(Destination("file", "", 0, 16384, path=str(path)), queue_octets)


def write(path: Path, first: int, count: int) -> None:
    """Writes one session, as a run of the probe does."""
    sender = sender_to(path)
    sender.enqueue([train(first, count)])
    drive(sender, lambda: sender.backlog == 0)
    sender.close()


def test_messages_are_written_whole_behind_the_templates(path: Path) -> None:
    sender = FileSender(parse_destination(f"file://{path}"))
    assert isinstance(sender, StreamSender)
    assert sender.local_address() is None
    sender.enqueue([train(0, 500, 1400), train(500, 1, 20)])
    drive(sender, lambda: sender.statistics.sent_messages == 502)
    assert sender.pump(time.monotonic()) is None
    sender.enqueue([train(501, 200)])
    assert sender.flush(time.monotonic() + 5)
    sender.close()
    octets = path.read_bytes()
    assert numbers(octets) == [TEMPLATES, *range(701)]
    assert sender.statistics.sent_octets == len(octets)
    assert (sender.statistics.errors, sender.statistics.dropped_messages) == (0, 0)
    assert path.stat().st_mode & 0o007 == 0, "not for everyone: it names users"


def test_another_run_appends_a_session(path: Path) -> None:
    write(path, 0, 5)
    write(path, 5, 5)
    assert numbers(path.read_bytes()) == [TEMPLATES, *range(5), TEMPLATES, *range(5, 10)]


def test_what_a_crash_cut_off_is_removed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(path, 0, 3)
    for rest in (5, 50):
        with path.open("ab") as file:
            file.write(message(99)[:rest])
        sender_to(path).close()
        assert numbers(path.read_bytes()) == [TEMPLATES, 0, 1, 2]
        assert f"cut off {rest} octets" in caplog.text


@pytest.mark.parametrize(
    "content", [b"root:x:0:0:root:/root\n", b"\0\x0a\0\x05xxxxxxxxxxxxx", b"\0"]
)
def test_other_files_are_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not an IPFIX file"):
        sender_to(path)
    assert path.read_bytes() == content


def test_garbage_behind_messages_is_not_appended_to(path: Path) -> None:
    content = message(0) + b"something else altogether"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="no message at octet 100"):
        sender_to(path)
    assert path.read_bytes() == content


def test_paths_that_cannot_be_used(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(b"")
    for name, said in [
        ("missing/flows.ipfix", "No such file or directory"),
        ("", "Is a directory"),
        ("fifo", "not a regular file"),
        ("file/flows.ipfix", "Not a directory"),
    ]:
        with pytest.raises(ConfigError, match=f"{name}: .*{said}"):
            sender_to(tmp_path / name)
    with pytest.raises(ConfigError, match="not a regular file"):
        sender_to(Path("/dev/null"))


def test_two_writers_of_one_file(path: Path) -> None:
    sender = sender_to(path)
    with pytest.raises(ConfigError, match="another destination or probe writes"):
        sender_to(path)
    sender.close()
    sender_to(path).close()


@contextmanager
def largest_file(octets: int) -> Iterator[None]:
    """Limits the size of files.

    As on a full disk, the kernel writes what fits and refuses the rest.
    """
    previous = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, previous[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, previous)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_is_counted_and_what_waits_is_written_later(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sender = sender_to(path, queue_octets=1 << 20)
    limit = 3_000_000
    with largest_file(limit):
        given = 0
        for _ in range(60):
            sender.enqueue([train(given, 64, 1400)])
            given += 64
            sender.pump(time.monotonic())
            begin_session(sender)
            sender.pump(time.monotonic())
        statistics = sender.statistics
        assert sender.is_down
        assert (statistics.errors, statistics.bursts) == (1, 1)
        written = numbers(path.read_bytes())
        assert limit - 1400 < path.stat().st_size <= limit
        assert statistics.sent_messages == len(written)
        drive(sender, lambda: statistics.errors == 2)
        assert path.stat().st_size == statistics.sent_octets, "whole messages only"
        assert statistics.dropped_messages > 0
        assert not sender.flush(time.monotonic() + 1)
    drive(sender, lambda: not sender.backlog and not sender.is_down)
    sender.close()
    found = numbers(path.read_bytes())
    assert found[0] == TEMPLATES
    assert found.count(TEMPLATES) == 1, "the session went on"
    assert found[1:] == sorted(set(found[1:]))
    assert len(found) == statistics.sent_messages
    assert statistics.sent_messages - 1 + statistics.dropped_messages == given
    texts = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(texts) == 2, "one for the disk, one for the queue"
    assert f"file://{path}: File too large; trying again" in texts


def test_no_space_left_is_named(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writev(file: int, pieces: list[memoryview]) -> int:
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(real(file, [b"".join(pieces)[:250]]))
        return written[-1]

    written: list[int] = []
    real = os.writev
    sender = sender_to(path)
    sender.enqueue([train(0, 10)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", writev)
        drive(sender, lambda: sender.is_down)
    assert numbers(path.read_bytes()) == [TEMPLATES, 0]
    assert "No space left on device; trying again" in caplog.text
    drive(sender, lambda: not sender.backlog)
    sender.close()
    assert numbers(path.read_bytes()) == [TEMPLATES, *range(10)]


def test_a_file_that_is_moved_is_followed_by_another(path: Path) -> None:
    sender = sender_to(path)
    sender.enqueue([train(0, 5)])
    drive(sender, lambda: not sender.backlog)
    moved = path.rename(path.with_suffix(".1"))
    sender.enqueue([train(5, 5)])
    drive(sender, lambda: not sender.backlog)
    sender.close()
    assert numbers(moved.read_bytes()) == [TEMPLATES, *range(5)]
    assert numbers(path.read_bytes()) == [TEMPLATES, *range(5, 10)]
    assert sender.statistics.sent_messages == 12


def test_a_directory_that_goes_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "flows.ipfix"
    sender = sender_to(path)
    sender.enqueue([train(0, 5)])
    drive(sender, lambda: not sender.backlog)
    path.unlink()
    folder.rmdir()
    sender.enqueue([train(5, 5)])
    drive(sender, lambda: sender.statistics.errors == 2)
    assert sender.is_down
    assert not sender.needs_templates()
    assert [record.getMessage() for record in caplog.records] == [
        f"file://{path}: No such file or directory; trying again"
    ]
    folder.mkdir()
    drive(sender, lambda: not sender.backlog)
    sender.close()
    assert numbers(path.read_bytes()) == [TEMPLATES, *range(5, 10)]
    assert sender.statistics.dropped_messages == 0


def test_what_never_had_room_is_counted_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    sender = sender_to(folder / "flows.ipfix")
    begin_session(sender)
    assert sender.flush(time.monotonic() + 1)
    (folder / "flows.ipfix").unlink()
    folder.rmdir()
    sender.enqueue([train(0, 5)])
    sender.pump(time.monotonic())
    sender.close()
    statistics = sender.statistics
    assert (statistics.dropped_messages, statistics.dropped_packets) == (5, 50)


def test_sockets_are_no_files(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        with pytest.raises(ConfigError, match="No such device or address"):
            sender_to(tmp_path / "socket")
