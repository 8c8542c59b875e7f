"""Tests ``sockflow collect --read`` on files of messages: whole, cut, and with garbage in them."""

from __future__ import annotations

import io
import itertools
import json
import os
from pathlib import Path

import pytest

from probe.collector.output import to_json
from probe.commands.cli import main
from probe.errors import DecodeError
from probe.ipfix.stream import MessageStream
from tests.support.ipfix.messages import message, template
from tests.support.ipfix.sessions import make_session
from tests.support.records import NOW_S, flow_records


def messages(count: int, template_name: str = "full") -> list[bytes]:
    session = make_session(template_name)
    trains = session.messages(flow_records(count), NOW_S)
    return [bytes(one) for train in trains for one in train]


@pytest.mark.parametrize("size", [1, 3, 1000, 1 << 20])
def test_messages_are_cut_out_of_a_stream(size: int) -> None:
    whole = messages(30)
    octets = b"".join(whole)
    stream = MessageStream()
    found = [
        one for at in range(0, len(octets), size) for one in stream.feed(octets[at : at + size])
    ]
    assert [one for _, one in found] == whole
    assert all(octets[at:].startswith(one) for at, one in found)
    assert (stream.unread, stream.offset) == (0, len(octets))


@pytest.mark.parametrize("garbage", [b"\0\x0a\0\x0f", b"\0\x09\0\x20", b"GET / HTTP/1.1"])
def test_a_stream_ends_where_no_message_begins(garbage: bytes) -> None:
    stream = MessageStream()
    feed = stream.feed(message() * 3 + garbage)
    assert [at for at, _ in itertools.islice(feed, 3)] == [0, 16, 32]
    with pytest.raises(DecodeError):
        next(feed)
    assert stream.offset == 48


def test_what_was_exported_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(b"".join(messages(300)))
    status = main(["collect", "--json", "--read", str(tmp_path / "one"), str(tmp_path / "two")])
    captured = capsys.readouterr()
    records = [json.loads(line) for line in captured.out.splitlines()]
    assert status == 0
    assert sorted(record["flowId"] for record in records) == sorted([*range(1, 301)] * 2)
    assert "600 records in" in captured.err
    assert "0 records lost on the way, 0 broken messages" in captured.err


def test_option_records_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "flows").write_bytes(b"".join(messages(2)))
    main(["collect", "--json", "--options", "--read", str(tmp_path / "flows")])
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    options = [record for record in records if record.get("options")]
    assert len(records) - len(options) == 2
    assert {record["informationElementName"] for record in options} >= {"SRC_PROC_NAME", "tcpState"}


def test_lines_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "flows").write_bytes(b"".join(messages(5)))
    assert main(["collect", "--read", str(tmp_path / "flows")]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 5
    assert "udp 10.0.0.0:1024 > 192.0.0.0:443, sent 1 p 1 kB" in captured.out


def test_a_cut_file_is_read_up_to_the_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = messages(40)
    octets = b"".join(whole)
    (tmp_path / "cut").write_bytes(octets[:-7])
    assert main(["collect", "--json", "--read", str(tmp_path / "cut")]) == 0
    captured = capsys.readouterr()
    at, left = len(octets) - len(whole[-1]), len(whole[-1]) - 7
    assert f"cut: offset {at}: the file ends {left} octets into a message" in captured.err
    assert ", 1 broken messages" in captured.err
    assert 0 < len(captured.out.splitlines()) < 40


def test_the_next_file_is_read_after_garbage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = b"".join(messages(3, "numeric"))
    (tmp_path / "bad").write_bytes(good + b"\x80" * 50 + good)
    (tmp_path / "good").write_bytes(good)
    (tmp_path / "empty").write_bytes(b"")
    names = [str(tmp_path / name) for name in ("bad", "empty", "good")]
    assert main(["collect", "--json", "--read", *names]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 6
    assert f"bad: offset {len(good)}: version 32896" in captured.err


def test_broken_messages_are_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known, data = message((2, template(256, (1, 8)))), message((256, bytes(8)))
    broken = message((4, b""))
    (tmp_path / "flows").write_bytes(known + data + broken * 25 + message((256, bytes(16))))
    assert main(["collect", "--json", "--read", str(tmp_path / "flows")]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 3
    assert ", 25 broken messages" in captured.err
    assert captured.err.count("offset ") == 10
    offset = f"flows: offset {len(known + data)}: broken message: "
    assert f"{offset}Sets with a reserved id: set id 4" in captured.err
    assert "flows: 15 more broken messages" in captured.err


def test_standard_input(capsys: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    former = os.dup(0)
    try:
        os.dup2(reader, 0)
        os.write(writer, b"".join(messages(3)))
        os.close(writer)
        assert main(["collect", "--json", "--read", "-"]) == 0
    finally:
        os.dup2(former, 0)
        os.close(former)
        os.close(reader)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_json_of_a_record() -> None:
    line = to_json({"octetDeltaCount": 3, "SRC_PROC_NAME": "a\nb"})
    assert "\n" not in line
    assert json.loads(line) == {"octetDeltaCount": 3, "SRC_PROC_NAME": "a\nb"}
    assert json.loads(to_json({"a": float("inf"), "b": 1.5})) == {"a": None, "b": 1.5}


def test_more_flows_than_are_kept_are_printed_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probe.collector.output.Printed._LIMIT", 50)
    (tmp_path / "flows").write_bytes(b"".join(messages(500, "numeric")))
    assert main(["collect", "--read", str(tmp_path / "flows")]) == 0
    lines = io.StringIO(capsys.readouterr().out).readlines()
    assert len({line.split()[1] for line in lines}) == 500
