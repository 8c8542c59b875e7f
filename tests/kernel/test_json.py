"""Tests JSON lines of real traffic against the schema, and against IPFIX of the same run."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.json_schema import check_line
from tests.support.lab.hosts import Host, two_hosts
from tests.support.meters.actors import Actor, actors
from tests.support.meters.shell import Command, Shells, shells

PORT = 7100


@pytest.fixture
def shell() -> Iterator[Shells]:
    with shells() as found:
        yield found


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    with two_hosts("js") as found:
        yield found


def exchange(client: Actor, server: Actor, address: str, octets: int) -> None:
    """Sends ``octets`` each way on a connection that stays open, and a datagram."""
    server.do(f"l = socket.create_server(('', {PORT}))")
    client.do(f"s = socket.create_connection(({address!r}, {PORT}), 5)")
    server.do("c, _ = l.accept()")
    client.do(f"s.sendall(b'x' * {octets})")
    server.do(f"left = {octets}\nwhile left: left -= len(c.recv(left))")
    server.do(f"c.sendall(b'x' * {octets})")
    client.do(f"left = {octets}\nwhile left: left -= len(s.recv(left))")
    server.do(f"v = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); v.bind(('', {PORT}))")
    client.do("u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
    client.do(f"u.sendto(b'x', ({address!r}, {PORT}))")
    server.do("v.recv(9)")


def flows(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line.get("EVENT_TYPE") == "FLOW"]


def wait_for_line(path: Path, **fields: Any) -> dict[str, Any]:
    """Waits until a whole line of the file has ``fields``."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        text = path.read_text() if path.exists() else ""
        for line in map(json.loads, text[: text.rfind("\n") + 1].splitlines()):
            if fields.items() <= line.items():
                return dict(line)
        time.sleep(0.05)
    raise AssertionError(f"no line with {fields}: {text}")


def test_the_same_octets_as_ipfix(shell: Shells, pair: tuple[Host, Host], tmp_path: Path) -> None:
    agent, ecs = tmp_path / "agent.jsonl", tmp_path / "ecs.jsonl"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"", ("127.0.0.1", PORT))  # so that lo's counters are not zero
    found = shell("-e", f"json://{agent}", "-e", f"json://{ecs}?format=ecs")
    with actors(*pair) as (client, server):
        exchange(client, server, str(pair[1].four), 50_000)
        wait_for_line(agent, EVENT_TYPE="LISTEN", L4_LOCAL_PORT=PORT, PROTOCOL=6)
        records = found.finish()
    lines = [check_line(line) for line in agent.read_text().splitlines()]
    told = [(line["BYTES_SENT"], line["BYTES_RCVD"]) for line in flows(lines)]
    octets = sum(record["octetDeltaCount"] for record in records)
    assert sum(map(sum, told)) == octets > 100_000
    by_id = {str(record["flowId"]) for record in records}
    assert {line["FLOW_ID"] for line in flows(lines)} == by_id
    (tcp,) = (line for line in flows(lines) if line["L4_REMOTE_PORT"] == PORT and "TCP" in line)
    assert (tcp["LOCAL_ROLE"], tcp["TCP"]["CONN_STATE"]) == ("CLIENT", "ESTABLISHED")
    assert tcp["LOCAL_PROCESS"]["PID"] == client.pid
    assert tcp["REMOTE_PROCESS"]["PID"] == server.pid
    assert tcp["BYTES_SENT"] > 50_000 < tcp["BYTES_RCVD"]
    assert 0 < tcp["TCP"]["RTT"] < 1000
    interfaces = {line["ifName"]: line for line in lines if "ifName" in line}
    assert interfaces["lo"]["ifInOctets"] > 0
    network = [check_line(line) for line in ecs.read_text().splitlines()]
    same = [line for line in network if line["event"]["dataset"] == "sockflow.flow"]
    assert sum(line["network"]["bytes"] for line in same) == octets
    assert "lost: nothing" in found.summary


def test_standard_output_has_nothing_else(pair: tuple[Host, Host]) -> None:
    probe = Command("run", "-e", "json:-", "--include", f"port={PORT}")
    try:
        probe.wait_for(2)
        with actors(*pair) as (client, server):
            exchange(client, server, str(pair[1].four), 1000)
            output, errors = probe.stop()
    finally:
        probe.kill()
    lines = [check_line(line) for line in output.splitlines()]
    assert {line["PROTOCOL"] for line in flows(lines)} == {6, 17}
    assert "objects" in errors
    assert "lost: nothing" in errors


def test_sighup_goes_on_in_a_new_file(
    shell: Shells, pair: tuple[Host, Host], tmp_path: Path
) -> None:
    path = tmp_path / "flows.jsonl"
    found = shell("-e", f"json://{path}", "--interval", "0.2")
    wait_for_line(path, ifName="lo")
    moved = path.rename(tmp_path / "flows.1")
    before = moved.read_text()
    os.kill(found.probe.process.pid, signal.SIGHUP)
    with actors(*pair) as (client, server):
        exchange(client, server, str(pair[1].four), 1000)
        client.do("s.close()")
        server.do("c.close()")
        wait_for_line(path, EVENT_TYPE="FLOW", L4_REMOTE_PORT=PORT, PROTOCOL=6)
        found.finish()
    assert moved.read_text().startswith(before)
    text = path.read_text()
    assert text.endswith("\n")
    assert all(check_line(line) for line in text.splitlines())
