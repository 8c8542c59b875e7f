"""Tests lines to files and to standard output: rotation, full pipes and failing disks."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe.errors import ConfigError
from probe.export.transports.destination import Destination
from probe.export.transports.lines import LineWriter
from probe.run.destinations import parse_destination

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flows.jsonl"


@pytest.fixture
def output(path: Path) -> Iterator[LineWriter]:
    found = open_lines(path)
    yield found
    found.close()


def open_lines(path: Path, queue_octets: int = 1 << 20) -> LineWriter:
    return LineWriter(Destination("json", "", 0, path=str(path)), queue_octets)


def flush(output: LineWriter, seconds: float = 10) -> bool:
    return output.flush(time.monotonic() + seconds)


def test_lines_are_appended_and_counted(path: Path, output: LineWriter) -> None:
    path.write_text("before\n")
    output.enqueue([f"line {number}" for number in range(1000)], 5001, 70003)
    assert output.backlog == sum(len(f"line {number}\n") for number in range(1000))
    assert flush(output)
    lines = path.read_text().splitlines()
    assert lines == ["before", *(f"line {number}" for number in range(1000))]
    counted = output.statistics
    assert (counted.sent_records, counted.sent_flow_records) == (1000, 1000)
    assert counted.dropped_records == 0
    output.enqueue(["event"])
    assert flush(output)
    assert (counted.sent_records, counted.sent_flow_records) == (1001, 1000)
    assert path.stat().st_mode & 0o777 == 0o640


def test_more_than_the_queue_holds_is_written_at_once(path: Path) -> None:
    output = open_lines(path, queue_octets=10_000)
    output.enqueue(["x" * 99] * 6400)
    assert flush(output)
    assert output.statistics.dropped_records == 0
    assert path.stat().st_size == 640_000
    output.close()


def test_what_finds_no_room_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with open(os.open(pipe, os.O_RDWR), "rb", buffering=0) as reader:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
        output = open_lines(pipe, queue_octets=8192)
        for _ in range(20):
            output.enqueue(["x" * 1023], 3, 100)
        counted = output.statistics
        assert (counted.dropped_records, counted.dropped_flow_records) == (8, 8)
        assert (counted.dropped_packets, counted.dropped_octets) == (24, 800)
        assert len(caplog.records) == 1
        arrived = b""
        while output.backlog or len(arrived) < 12 * 1024:
            arrived += reader.read(4096)
            output.pump(time.monotonic())
        assert arrived == (b"x" * 1023 + b"\n") * 12
        output.close()


def test_reopened_after_a_rotation(path: Path, output: LineWriter) -> None:
    output.enqueue(["one"])
    assert flush(output)
    moved = path.rename(path.with_suffix(".1"))
    output.enqueue(["two"])
    assert flush(output)
    output.reopen()
    output.enqueue(["three"])
    assert flush(output)
    assert (moved.read_text(), path.read_text()) == ("one\ntwo\n", "three\n")


def test_a_directory_that_is_gone_is_retried(
    path: Path, output: LineWriter, caplog: pytest.LogCaptureFixture
) -> None:
    output.enqueue(["one"])
    assert flush(output)
    path.unlink()
    path.parent.rmdir()
    output.reopen()
    output.enqueue(["two"])
    now = time.monotonic()
    for _ in range(3):
        due = output.pump(now)
        assert due is not None
        assert due > now
        now = due
    assert output.is_down
    assert output.statistics.errors == 3
    assert output.statistics.bursts == len(caplog.records) == 1
    path.parent.mkdir()
    assert output.pump(now) is None
    assert path.read_text() == "two\n"
    assert not output.is_down


@pytest.mark.parametrize("name", ["missing/file", "."])
def test_a_path_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"destination json://.*: (No such file|Is a directory)"):
        open_lines(tmp_path / name)


def test_two_for_one_file(path: Path, output: LineWriter) -> None:
    with pytest.raises(ConfigError, match="another destination or probe writes to this file"):
        open_lines(path)


def test_a_full_disk_tears_no_line(path: Path) -> None:
    """A limit of the file's size acts as a full disk until it is raised."""
    script = f"""
import resource, signal, sys, time
from probe.export.transports.destination import Destination
from probe.export.transports.lines import LineWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
output = LineWriter(Destination("json", "", 0, path={str(path)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for number in range(20):
    output.enqueue([f"{{number:099d}}"])
now = time.monotonic()
due = output.pump(now)
assert output.is_down and due > now, due
with open({str(path)!r}) as file:
    print(len(file.read().splitlines()))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert output.pump(due) is None
print(output.statistics.sent_records, output.statistics.dropped_records, output.is_down)
"""
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines() == ["10", "20 0 False"]
    assert [int(line) for line in path.read_text().splitlines()] == list(range(20))


# -- standard output -------------------------------------------------------------------------------
_TO_STDOUT = """
import json, logging, sys, time
logging.disable()
from probe.export.transports.lines import LineWriter
from probe.run.destinations import parse_destination
output = LineWriter(parse_destination("json:-"), 400_000)
for number in range(200):
    output.enqueue([json.dumps({"number": number, "pad": "x" * 9000})])
    output.pump(time.monotonic())
print(json.dumps([output.statistics.sent_records, output.backlog]), file=sys.stderr, flush=True)
sys.stdin.readline()
output.flush(time.monotonic() + 20)
counted = output.statistics
print(json.dumps([counted.sent_records, counted.dropped_records]), file=sys.stderr)
"""


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_full_pipe_never_blocks(kind: str) -> None:
    """There is no reader at first. Later all lines that were taken arrive whole."""
    import socket

    if kind == "pipe":
        reader, writer = os.pipe()
    else:
        ends = socket.socketpair()
        reader, writer = (end.detach() for end in ends)
    child = subprocess.Popen(
        [sys.executable, "-c", _TO_STDOUT], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(writer)
    assert child.stdin
    assert child.stderr
    sent, backlog = json.loads(child.stderr.readline())  # nothing blocked before this
    assert sent < 200
    assert 0 < backlog <= 400_000
    child.stdin.write("\n")
    child.stdin.flush()
    with open(reader, encoding="ascii") as file:
        lines = file.read().splitlines()
    sent, dropped = json.loads(child.stderr.readline())
    assert child.wait(20) == 0
    assert sent == len(lines)
    assert sent + dropped == 200
    assert dropped > 0
    numbers = [json.loads(line)["number"] for line in lines]
    assert numbers == sorted(numbers)
    child.stderr.close()
    child.stdin.close()


def test_standard_output_is_shared_with_nobodys_flags() -> None:
    """Another user of the same pipe, such as the shell, must not find it non-blocking."""
    reader, writer = os.pipe()
    script = "import os; from probe.export.transports.lines import *\n"
    script += "from probe.run.destinations import *\n"
    script += "LineWriter(parse_destination('json:-')).close(); print(os.get_blocking(1))"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=writer, check=True)
    os.close(writer)
    with open(reader) as file:
        assert file.read() == "True\n"
    assert parse_destination("json:-").path == "-"
