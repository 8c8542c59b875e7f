"""Tests the SNMP agent of a running probe with common programs, against ip(8)."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe.snmp.ber import NULL, OCTET_STRING, SEQUENCE, encode, encode_integer
from probe.snmp.message import GET_BULK, encode_message
from probe.snmp.message import V2C as V2C_VERSION
from probe.snmp.tree import encode_varbind
from tests.support.lab.hosts import run
from tests.support.meters.snmp_agent import (
    ALICE,
    CAROL,
    CONFIG,
    DISCONTINUITY,
    HC_IN,
    HC_OUT,
    IF_NAME,
    IF_NUMBER,
    PORT,
    SYS_UPTIME,
    TABLE_CHANGE,
    V2C,
    Probe,
    ask,
    column,
    statistics,
    until,
)
from tests.support.programs import queued
from tests.support.snmp import Manager, broken, over_udp


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    found = Probe(CONFIG, tmp_path_factory.mktemp("snmp"))
    until(lambda: bool(ask("snmpget", V2C, SYS_UPTIME)))
    yield found
    if found.process.poll() is None:
        found.stop()


@pytest.fixture
def veths() -> Iterator[list[str]]:
    """Makes three veths whose other ends are in a namespace."""
    names = [f"vsnmp{number}" for number in range(3)]
    run("ip", "netns", "add", "snsnmp")
    try:
        for name in names:
            run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p",
                "netns", "snsnmp")  # fmt: skip
            run("ip", "link", "set", name, "up")
            run("ip", "-n", "snsnmp", "link", "set", f"{name}p", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "link", "del", name], stderr=subprocess.DEVNULL, check=False)
        run("ip", "netns", "del", "snsnmp")


def test_conformance(probe: Probe) -> None:
    assert broken(Manager(over_udp("127.0.0.1", PORT), b"reader")) == []


@pytest.mark.parametrize(
    ("tool", "how"),
    [
        ("snmpwalk", ("-v1", "-c", "reader")), ("snmpwalk", V2C), ("snmpbulkwalk", V2C),
        ("snmpbulkwalk", ALICE), ("snmpbulkwalk", CAROL),
    ],
    ids=["v1", "v2c", "v2c-bulk", "v3-sha256-aes", "v3-sha-aes256"],
)  # fmt: skip
def test_names_are_those_of_ip(
    probe: Probe, veths: list[str], tool: str, how: tuple[str, ...]
) -> None:
    truth = {index: one["name"] for index, one in statistics().items()}
    assert column(IF_NAME, how, tool) == truth
    assert set(veths) <= set(truth.values())
    assert ask("snmpget", how, IF_NUMBER)[0][1] == str(len(truth))


def test_counters_are_those_of_ip(probe: Probe, veths: list[str]) -> None:
    run("ip", "addr", "add", "10.78.9.1/24", "dev", veths[0])
    run("ip", "-n", "snsnmp", "addr", "add", "10.78.9.2/24", "dev", f"{veths[0]}p")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(200):
            sender.sendto(bytes(1000), ("10.78.9.2", 9))
    index = next(index for index, one in statistics().items() if one["name"] == veths[0])

    def same() -> bool:
        before = statistics()[index]
        shown = {side: int(column(oid)[index]) for side, oid in (("in", HC_IN), ("out", HC_OUT))}
        return shown == {side: before[side] for side in shown} == {
            side: statistics()[index][side] for side in shown
        } and shown["out"] > 200_000  # fmt: skip

    until(same)


def test_tables(probe: Probe) -> None:
    """snmptable needs the text of a MIB. A text with the columns' numbers is enough."""
    mib = probe.log.parent / "IF-MIB-PART.txt"
    mib.write_text(_MIB)
    shown = run("snmptable", *V2C, "-M", str(mib.parent), "-m", str(mib), "-Ci",
                f"127.0.0.1:{PORT}", "IF-MIB-PART::ifXPart").stdout  # fmt: skip
    for index, one in statistics().items():
        assert re.search(rf'^\s*{index}\s+"{re.escape(str(one["name"]))}"$', shown, re.MULTILINE)


_MIB = """IF-MIB-PART DEFINITIONS ::= BEGIN
ifXPart OBJECT-TYPE SYNTAX SEQUENCE OF IfXPartEntry ACCESS not-accessible STATUS mandatory
  ::= { iso 3 6 1 2 1 31 1 1 }
ifXPartEntry OBJECT-TYPE SYNTAX IfXPartEntry ACCESS not-accessible STATUS mandatory
  INDEX { ifXPartIndex } ::= { ifXPart 1 }
IfXPartEntry ::= SEQUENCE { ifXPartName OCTET STRING, ifXPartIndex INTEGER }
ifXPartName OBJECT-TYPE SYNTAX OCTET STRING ACCESS read-only STATUS mandatory
  ::= { ifXPartEntry 1 }
ifXPartIndex OBJECT-TYPE SYNTAX INTEGER ACCESS read-only STATUS mandatory ::= { iso 99 }
END
"""


def test_rows_come_and_go_at_once(probe: Probe, veths: list[str]) -> None:
    by_name = {str(one["name"]): index for index, one in statistics().items()}
    index = by_name[veths[1]]
    until(lambda: column(IF_NAME).get(index), veths[1])
    before = ask("snmpget", V2C, "-Ot", TABLE_CHANGE)[0][1]
    run("ip", "link", "del", veths[1])
    until(lambda: index in column(IF_NAME), False)
    # an index can be requested again: another device has it now
    run("ip", "link", "add", "index", str(index), "name", "dsnmp", "type", "bridge")
    try:
        until(lambda: column(IF_NAME).get(index), "dsnmp")
        after = ask("snmpget", V2C, "-Ot", TABLE_CHANGE, f"{DISCONTINUITY}.{index}", SYS_UPTIME)
        changed, since, now = (int(value) for _, value in after)
        assert int(before) < changed <= now
        assert int(before) < since <= now
    finally:
        run("ip", "link", "del", "dsnmp")


def test_pollers_of_the_archives(probe: Probe, veths: list[str], tmp_path: Path) -> None:
    """MRTG's cfgmaker finds the interfaces that are up, under their names."""
    done = run("cfgmaker", "--snmp-options=:::::2", "--ifref=name", "--zero-speed=1000000000",
               "--no-down", f"reader@127.0.0.1:{PORT}:::::2")  # fmt: skip
    for name in veths:
        assert f": #{name}:reader@127.0.0.1" in done.stdout
    assert "noc@example.org" in done.stdout


def test_hostile_requests_leave_it_alive(probe: Probe) -> None:
    """After 8000 damaged requests memory is unchanged, the log is short, and the agent answers."""
    agent = probe.agent()
    name = encode_varbind((1, 3, 6, 1, 2, 1, 1), encode(NULL, b""))
    numbers = b"".join(map(encode_integer, (123456, 0, 20)))
    pdu = encode(GET_BULK, numbers + encode(SEQUENCE, name))
    good = [encode_message(V2C_VERSION, b"reader", pdu)]
    good += [_version3(pdu, user, flags) for user in ("", "alice") for flags in (4, 7)]
    dice = random.Random(7)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
        source.connect(("127.0.0.1", PORT))
        source.setblocking(False)
        _damage(source, good, dice, 2000)
        resident = _resident_kib(agent)
        _damage(source, good, dice, 8000)
    until(lambda: bool(ask("snmpget", V2C, SYS_UPTIME)))
    assert ask("snmpget", ALICE, IF_NUMBER) == ask("snmpget", V2C, IF_NUMBER)
    assert probe.agent() == agent
    assert _resident_kib(agent) <= resident + 2048
    assert int(ask("snmpget", V2C, "-Oe", "1.3.6.1.2.1.11.6.0")[0][1]) > 4000
    text = probe.log.read_text()
    assert 1 <= text.count("malformed") <= 3
    assert len(text.splitlines()) < 10


def _version3(pdu: bytes, user: str, flags: int) -> bytes:
    """Returns a complete message whose key no user has."""
    header = encode_integer(99) + encode_integer(65507) + encode(OCTET_STRING, bytes((flags,)))
    texts = (b"", user.encode(), bytes(24 if flags & 1 else 0), bytes(8 if flags & 2 else 0))
    engine, name, digest, salt = (encode(OCTET_STRING, text) for text in texts)
    around = engine + encode_integer(0) + encode_integer(0) + name + digest + salt
    scoped = encode(SEQUENCE, engine + engine + pdu)
    return encode(
        SEQUENCE,
        encode_integer(3)
        + encode(SEQUENCE, header + encode_integer(3))
        + encode(OCTET_STRING, encode(SEQUENCE, around))
        + (encode(OCTET_STRING, scoped) if flags & 2 else scoped),
    )


def _damage(source: socket.socket, good: list[bytes], dice: random.Random, count: int) -> None:
    for number in range(count):
        octets = bytearray(dice.choice(good))
        for _ in range(dice.randint(0, 3)):
            octets[dice.randrange(len(octets))] = dice.randrange(256)
        cut = len(octets) if dice.random() < 0.5 else dice.randint(1, len(octets))
        with contextlib.suppress(OSError):
            source.send(bytes(octets[:cut]))
        if number % 50 == 0:  # the agent's buffer holds some hundred
            until(lambda: queued(PORT)[0] == 0)  # type: ignore[index]  # it listens
        with contextlib.suppress(OSError):
            while True:
                source.recv(65535)


def _resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found
    return int(found[1])


def test_the_agent_is_nobody_and_comes_back(probe: Probe) -> None:
    agent = probe.agent()
    status = Path(f"/proc/{agent}/status").read_text()
    for line in ("Uid:\t65534\t65534\t65534\t65534", "Groups:\t ", "CapPrm:\t0000000000000000",
                 "CapEff:\t0000000000000000", "NoNewPrivs:\t1"):  # fmt: skip
        assert line in status.splitlines(), status
    run("kill", "-9", str(agent))
    until(lambda: probe.agent() != agent)
    until(lambda: bool(ask("snmpget", V2C, SYS_UPTIME)))
    assert ask("snmpget", ALICE, IF_NUMBER)
    text = probe.stop()
    assert "the SNMP agent ended with status -9" in text
    assert "the SNMP agent ended by itself: 1 times" in text
    assert "Traceback" not in text
    assert not Path(f"/proc/{agent}").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--snmp", f"0.0.0.0:{PORT + 1}"), "who may ask"),
        (("--snmp", f"127.0.0.1:{PORT + 1}"), "Address already in use"),
        (("--snmp", "here"), "ADDRESS:PORT"),
    ],
)
def test_what_cannot_be_used(arguments: tuple[str, ...], reason: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", PORT + 1))
        done = subprocess.run(
            [sys.executable, "-m", "probe", "run", "-e", "ipfix://127.0.0.1:4739", *arguments],
            capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
