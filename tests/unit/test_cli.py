"""Tests the command line: bad input gives one clear line and exit status 2."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from probe.collector import CollectorSocket
from probe.commands.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["walk"],
        ["run", "--active-timeout", "soon"],
        ["run", "--active-timeout", "-5"],
        ["run", "--interval", "nan"],
        ["run", "--duration", "-1"],
        ["run", "--collector", "pcap"],
        ["run", "--odid", "99999999999"],
        ["run", "--config", "/nowhere/sockflow.toml"],
        ["run", "--template", "/nowhere/template.txt", "-e", "ipfix://127.0.0.1:9"],
        ["run", "-e", "netflow://127.0.0.1:9"],
        ["run", "-e", "ipfix://127.0.0.1:99999"],
        ["run", "-e", "ipfix://[::1"],
        ["run", "--include", "colour=red"],
        ["run", "--exclude", "cidr=10.0.0.0/99"],
        ["run", "--act", "3"],
        ["collect", "--listen", "4739"],
        ["collect", "--listen", "127.0.0.1"],
        ["collect", "--listen", "192.0.2.1:4739", "--duration", "0"],
        ["collect", "--listen", "192.0.2.1:4739", "--listen", "127.0.0.1:0"],
        ["collect", "--listen", "ipfix+tls://127.0.0.1:0?cert=/nowhere/cert.pem"],
        ["collect", "--options"],
        ["collect", "--read", "/nowhere/flows.ipfix"],
        ["collect", "--read", "/"],
        ["collect", "--read", "-", "--listen", "127.0.0.1:0"],
        ["collect", "--read", "-", "--duration", "3"],
    ],
)
def test_one_line_and_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("sockflow: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "collect" in capsys.readouterr().out


def test_run_help_can_be_formatted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", "--help"])
    assert stop.value.code == 0
    assert "--active-timeout" in capsys.readouterr().out


def test_garbage_is_counted_and_never_fatal() -> None:
    source = CollectorSocket("127.0.0.1", 0, 32473)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for octets in (b"", b"\0", b"\0\x0a" + b"\xff" * 30, bytes(1400)):
            sender.sendto(octets, source.address)
    assert source.read() == []
    assert source.process.statistics.errors == 4
    source.close()


def test_collect_stops_by_itself_with_a_summary() -> None:
    command = [sys.executable, "-m", "probe", "collect", "--listen", "127.0.0.1:0", "--json"]
    done = subprocess.run(
        [*command, "--duration", "0.1"], cwd=ROOT, capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "0 records in 0 messages collected" in done.stderr


COMMANDS = [["templates"], ["--version"], ["interfaces"], ["interfaces", "--json"],
            ["flows", "--duration", "0.5"], ["flows", "--json", "--duration", "0.5"],
            ["collect", "--listen", "127.0.0.1:0", "--duration", "0.5"]]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("to", [">&-", "2>&-", ">&- 2>&-", ">/dev/full"])
def test_no_output_to_write_to(command: list[str], to: str) -> None:
    """A closed standard stream or a full disk behind it raises no traceback."""
    shell = ["sh", "-c", f'exec "$@" {to}', "sh", sys.executable, "-m", "probe", *command]
    done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert done.returncode == 0 or (done.returncode == 2 and to == ">/dev/full")
    if done.returncode:
        assert "cannot write to standard output: No space left on device" in done.stderr


def test_no_descriptor_left() -> None:
    """When descriptors run out, one line says what to do, wherever the last one went."""
    for limit in range(4, 24, 3):
        done = subprocess.run(
            [sys.executable, "-c", FEW.format(limit)], cwd=ROOT, capture_output=True, text=True,
            timeout=120,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        assert done.returncode == 0 or "Too many open files" in done.stderr, done.stderr


FEW = """
import resource, sys
from probe import collector
from probe.commands.cli import main
resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {0}))
sys.exit(main(["collect", "--listen", "127.0.0.1:0", "--duration", "0.1", "--json"]))
"""
