"""Tests ``sockflow flows`` with real traffic: on a pipe, as JSON, on a terminal, and its end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.json_schema import check_line
from tests.support.lab.hosts import Host, two_hosts
from tests.support.meters.actors import Actor, actors
from tests.support.meters.shell import ROOT, Command

PORT = 7140
OF_PORT = ("--port", str(PORT))
FILTER = (*OF_PORT, "--cidr", "10.77.0.0/24")


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    with two_hosts("vw") as found:
        yield found


@contextlib.contextmanager
def commands(*each: tuple[str, ...], name: str = "flows") -> Iterator[list[Command]]:
    """Runs ``sockflow flows`` with each list of arguments, and waits until all of them meter."""
    found = [Command(name, *arguments) for arguments in each]
    try:
        for command in found:
            command.wait_for(2)
        yield found
    finally:
        for command in found:
            command.kill()


def exchange(client: Actor, server: Actor, address: str) -> None:
    """Sends data on a connection that stays (5000 octets there, 100 back).

    Another connection ends, and a datagram is sent.
    """
    server.do(f"l = socket.create_server(('', {PORT}))")
    for name, octets in (("s", 5000), ("t", 10)):
        client.do(f"{name} = socket.create_connection(({address!r}, {PORT}), 5)")
        server.do(f"{name}, _ = l.accept()")
        client.do(f"{name}.sendall(b'x' * {octets})")
        server.do(f"{name}.recv({octets}, socket.MSG_WAITALL); {name}.sendall(b'y' * 100)")
        client.do(f"{name}.recv(100, socket.MSG_WAITALL)")
    client.do("t.close()")
    server.do("t.close()")
    server.do(f"u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('', {PORT}))")
    client.do("u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
    client.do(f"u.sendto(b'x', ({address!r}, {PORT}))")


def test_without_a_terminal(pair: tuple[Host, Host]) -> None:
    address = str(pair[1].four)
    with (
        commands(
            (*FILTER, "--sort", "octets"), (*FILTER, "--tree", "--protocol", "tcp"),
            (*FILTER, "--json"), (*FILTER, "--by", "process", "--json"),
            (*FILTER, "--process", "nobody-is-called-so"),
        ) as found,
        actors(*pair) as (client, server),
    ):  # fmt: skip
        exchange(client, server, address)
        found[0].wait_for_output("state closed")
        outputs = [command.stop() for command in found]
    plain, tree, as_json, summary, none = (output.splitlines() for output, errors in outputs)
    ends = re.compile(rf"(tcp|udp) {pair[0].four}:\d+ > {address}:{PORT}, sent ")
    assert all(map(ends.match, plain))
    assert len({line.split(",")[0] for line in plain}) == 3
    tcp = [line for line in plain if line.startswith("tcp")]
    pids = rf"process python\S*\({client.pid}\) > python\S*\({server.pid}\)"
    assert all(re.search(pids, line) for line in tcp)
    assert all("rtt 0." in line for line in tcp)
    assert any(line.endswith("state closed") for line in tcp)
    check_tree(tree, client, server, pair)
    told = [check_line(line, "flow") for line in as_json]
    assert {line["PROTOCOL"] for line in told} == {6, 17}
    assert sum(line["BYTES_SENT"] for line in told if line["PROTOCOL"] == 6) > 5010
    (name,) = {line["LOCAL_PROCESS"]["NAME"] for line in told}
    (total,) = (check_line(line, "summary") for line in summary)
    assert (total["BY"], total["NAME"]) == ("PROCESS", name)
    assert total["AS_CLIENT"]["FLOWS"] == total["AS_SERVER"]["FLOWS"] == 3
    assert 0 < total["AS_CLIENT"]["RTT"] < 1000 > total["AS_SERVER"]["RTT"] > 0
    assert total["BYTES_SENT"] == sum(line["BYTES_SENT"] + line["BYTES_RCVD"] for line in told)
    assert not none
    assert all(errors.endswith("shown, lost: nothing\n") for _, errors in outputs)


def test_sockets_that_wait(pair: tuple[Host, Host]) -> None:
    """They have sent nothing, so they are not flows."""
    with actors(pair[1]) as (server,):
        server.do(f"l = socket.create_server(('', {PORT}))")
        server.do(f"u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('', {PORT}))")
        with commands((*OF_PORT, "--listening"), (*OF_PORT, "--json")) as found:
            found[0].wait_for_output(f"open udp 0.0.0.0:{PORT}, process python")
            (waiting, _), (flows, _) = (command.stop() for command in found)
    pattern = rf"open (tcp|udp) 0.0.0.0:{PORT}, process python\S*\({server.pid}\), .*"
    found_protocols = [re.fullmatch(pattern, line) for line in waiting.splitlines()]
    assert {match and match[1] for match in found_protocols} == {"tcp", "udp"}
    assert not flows


def check_tree(lines: list[str], client: Actor, server: Actor, pair: tuple[Host, Host]) -> None:
    start = next(i for i, line in enumerate(lines) if line.startswith("tcp "))
    node = os.uname().nodename
    parent, name = rf"\S+\({os.getpid()}\)", r"python\S*"
    for line, expected in zip(
        lines[start + 1 :],
        (
            rf"├─ {pair[0].four} on {node}", rf"│  └─ {parent}",
            rf"│     └─ {name}\({client.pid}\), user root",
            rf"└─ {pair[1].four} on {node}", rf"   └─ {parent}",
            rf"      └─ {name}\({server.pid}\), user root",
        ),
        strict=False,
    ):  # fmt: skip
        assert re.fullmatch(expected, line), line


def test_events(pair: tuple[Host, Host]) -> None:
    address = str(pair[1].four)
    kinds = ("--kind", "CONNECT,CONNECT_FAILED,ACCEPT,CLOSE,SEND")
    with (
        commands(
            (*FILTER, *kinds), (*FILTER, "--kind", "accept", "--json"), name="events"
        ) as found,
        actors(*pair) as (client, server),
    ):
        client.do(f"try: socket.create_connection(({address!r}, {PORT}))\nexcept OSError: pass")
        exchange(client, server, address)
        found[0].wait_for_output("SEND udp")
        (plain, errors), (as_json, _) = (command.stop() for command in found)
    ours = rf"tcp {pair[0].four}:\d+ > {address}:{PORT}"
    who = rf", process python\S*\({client.pid}\), parent \S+\({os.getpid()}\), user root"
    told = [line.partition(" ")[2] for line in plain.splitlines()]
    assert re.fullmatch(f"CONNECT_FAILED {ours}, ECONNREFUSED{who}", told[0])
    assert re.fullmatch(f"CONNECT {ours}{who}", told[1])
    counts = Counter(line.split()[0] for line in told)
    assert counts == {"CONNECT_FAILED": 1, "CONNECT": 2, "ACCEPT": 2, "CLOSE": 2, "SEND": 1}
    assert errors.endswith("8 events shown, lost: nothing\n")
    accepted = [check_line(line, "event") for line in as_json.splitlines()]
    assert [line["LOCAL_PROCESS"]["PID"] for line in accepted] == [server.pid] * 2


def test_the_reader_goes_away(pair: tuple[Host, Host]) -> None:
    command = [sys.executable, "-m", "probe", "flows", "--json", *FILTER]
    with actors(*pair) as (client, server):
        reading = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert reading.stdout
        exchange(client, server, str(pair[1].four))
        while not select.select([reading.stdout], [], [], 0.2)[0]:
            client.do("s.sendall(b'x')")
        assert json.loads(reading.stdout.readline())["EVENT_TYPE"] == "FLOW"
        reading.stdout.close()
        deadline = time.monotonic() + 120
        while reading.poll() is None:
            client.do("s.sendall(b'x')")
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert reading.returncode == 0


def _environment() -> dict[str, str]:
    """Returns the environment without the size of another terminal."""
    return {key: text for key, text in os.environ.items() if key not in ("COLUMNS", "LINES")}


class Terminal:
    """A command with its own terminal of 160 by 30."""

    def __init__(self, *arguments: str) -> None:
        self._master, slave = os.openpty()
        termios.tcsetwinsize(slave, (30, 160))
        self._slave = slave

        def take_terminal() -> None:
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [sys.executable, "-m", "probe", *arguments], cwd=ROOT, stdin=slave, stdout=slave,
            stderr=slave, start_new_session=True, preexec_fn=take_terminal,
            env={**_environment(), "TERM": "xterm"},
        )  # fmt: skip
        self.text = ""

    def read_until(self, wanted: str) -> None:
        """Waits until the text matches the pattern ``wanted``."""
        deadline = time.monotonic() + 120
        while not re.search(wanted, self.text):
            assert time.monotonic() < deadline, self.text
            if select.select([self._master], [], [], 0.1)[0]:
                self.text += os.read(self._master, 65536).decode(errors="replace")

    def echoes_control(self) -> bool:
        return bool(termios.tcgetattr(self._slave)[3] & termios.ECHOCTL)

    def type(self, octets: bytes) -> None:
        os.write(self._master, octets)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)


SHAPES = {
    (): rf"tcp +\S+ +10\.77\.0\.2:{PORT} .* p 5\.\d+ kB .*established",
    ("--tree",): r"└─ python\S*\(\d+\), user root",
    ("--by", "user"): r"root +3 +3 +6\.\d+ kB",
}


def test_on_a_terminal(pair: tuple[Host, Host]) -> None:
    with contextlib.ExitStack() as closing, actors(*pair) as (client, server):
        terminals = [Terminal("flows", *FILTER, *shape) for shape in SHAPES]
        for terminal in terminals:
            closing.callback(terminal.close)
        for terminal in terminals:
            terminal.read_until("sockflow on ")
            assert not terminal.echoes_control()
        exchange(client, server, str(pair[1].four))
        for terminal, wanted in zip(terminals, SHAPES.values(), strict=True):
            terminal.read_until(wanted)
            terminal.type(b"\x03")
        for terminal in terminals:
            terminal.read_until(r"shown, lost: nothing\r\n")
            assert terminal.process.wait(120) == 0
            assert "^C" not in terminal.text
            assert terminal.echoes_control()
