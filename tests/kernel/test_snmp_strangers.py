"""Tests that strangers cannot run code in the SNMP agent or flood others through it."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from probe.snmp.ber import NULL, OBJECT_IDENTIFIER, SEQUENCE, encode, encode_integer
from probe.snmp.ber import encode_oid_body as oid
from probe.snmp.message import GET_BULK, encode_message
from probe.snmp.message import V2C as VERSION_2C
from tests.support.meters.snmp_agent import ALICE, CONFIG, PORT, SYS_UPTIME, V2C, Probe, ask, until

#: Modules that the probe or its agent imports, early or late.
NAMES = ("json", "logging", "asyncio", "argparse", "dataclasses", "numpy", "pysnmp", "cryptography",
         "ctypes", "typing", "sitecustomize")  # fmt: skip
_SO_RCVBUFFORCE = 33
_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapAmb")


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """Makes another user's working directory, whose modules leave a file when they are run."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(
            f"open({str(tmp_path / 'ran')!r}, 'a').write('{name} ')"
        )
    return tmp_path


def drain(asker: socket.socket) -> int:
    """Returns the octets of all answers that are there by now."""
    came = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            came += len(asker.recv(65536))
    return came


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_code_in_the_working_directory_is_not_run(trap: Path, tmp_path: Path) -> None:
    """The agent, as root, used to search the working directory for modules first."""
    config, log = tmp_path / "c.toml", tmp_path / "log"
    config.write_text(CONFIG)
    command = [str(Path(sys.executable).with_name("sockflow")), "run", "--config", str(config),
               "-e", f"file://{tmp_path}/flows.ipfix"]  # fmt: skip
    with log.open("w") as file:
        probe = subprocess.Popen(command, cwd=trap, stderr=file)
    try:
        until(lambda: len(ask("snmpget", V2C, SYS_UPTIME)), 1, 120)
    finally:
        probe.terminate()
        assert probe.wait(60) == 0
    assert not (trap / "ran").exists(), (trap / "ran").read_text()


def test_the_module_is_run_in_isolation_by_its_documented_command(trap: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-I", "-m", "probe", "--version"],
        cwd=trap, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "sockflow" in shown.stdout
    assert not (trap / "ran").exists()


def test_the_agent_has_no_right_left(tmp_path: Path) -> None:
    probe = Probe(CONFIG, tmp_path)
    try:
        until(lambda: len(ask("snmpget", V2C, SYS_UPTIME)), 1, 120)
        found = status(probe.agent())
        cwd = Path(f"/proc/{probe.agent()}/cwd").readlink()
    finally:
        probe.stop()
    assert set(found["Uid"].split()) == set(found["Gid"].split()) == {"65534"}
    assert found["Groups"] == ""
    assert {int(found[name], 16) for name in _CAPABILITIES} == {0}
    assert found["NoNewPrivs"] == "1"
    assert cwd == Path("/")


def test_packages_that_only_root_may_read_serve_version_3_too(tmp_path: Path) -> None:
    """pysnmp reads some of its files at the first request, when the agent is no longer root."""
    locked = tmp_path / "locked"
    (locked / "venv").mkdir(parents=True)
    locked.chmod(0o700)
    elsewhere = f'mount --bind "$0" {locked}/venv; shift; exec {locked}/venv/bin/python "$@"'
    probe = Probe(CONFIG, tmp_path, "unshare", "--mount", "sh", "-c", elsewhere, sys.prefix)
    try:
        until(lambda: len(ask("snmpget", ALICE, SYS_UPTIME)), 1, 120)
    finally:
        probe.stop()


def test_a_flood_of_requests_is_answered_with_a_bounded_amount(tmp_path: Path) -> None:
    """A forged source address must not turn the agent into an amplifier."""
    varbind = encode(SEQUENCE, encode(OBJECT_IDENTIFIER, oid((1, 3, 6, 1))) + encode(NULL, b""))
    numbers = encode_integer(1) + encode_integer(0) + encode_integer(10_000)
    request = encode_message(
        VERSION_2C, b"reader", encode(GET_BULK, numbers + encode(SEQUENCE, varbind))
    )
    probe = Probe(CONFIG, tmp_path)
    try:
        until(lambda: len(ask("snmpget", V2C, SYS_UPTIME)), 1, 120)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
            asker.connect(("127.0.0.1", PORT))
            asker.setblocking(False)
            began, came = time.monotonic(), 0
            while "forged" not in probe.log.read_text():
                assert time.monotonic() - began < 300
                for _ in range(20):  # so few fit into the agent's receive buffer
                    asker.send(request)
                select.select([asker], [], [], 1)
                came += drain(asker)
            while select.select([asker], [], [], 2)[0]:
                came += drain(asker)
            took = time.monotonic() - began
    finally:
        probe.stop()
    assert came < (1 << 21) * (1 + took / 10)


def test_wrong_communities_are_refused_by_the_kernel_and_counted(tmp_path: Path) -> None:
    wrong = encode_message(VERSION_2C, b"guess", encode(GET_BULK, b""))
    probe = Probe(CONFIG, tmp_path)
    bad = "1.3.6.1.2.1.11.4.0"
    try:
        until(lambda: len(ask("snmpget", V2C, SYS_UPTIME)), 1, 120)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            for _ in range(500):
                asker.sendto(wrong, ("127.0.0.1", PORT))
        until(lambda: ask("snmpget", V2C, bad)[0][1], "500", 60)
    finally:
        probe.stop()
