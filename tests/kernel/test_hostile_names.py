"""Tests hostile names of a real process, cgroup and interface in all views."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from probe.kernel import host as kernel_host
from tests.support.lab.hosts import Host, run, two_hosts
from tests.support.meters.actors import Actor, actors
from tests.support.meters.shell import Command
from tests.unit.test_hostile_names import is_safe

COMMAND = (sys.executable, "-m", "probe", "interfaces", "--interval", "0.1", "--no-docker")
PORT = 7160
OF_PORT = ("--port", str(PORT))
#: Clears the screen, reverses the direction, and has C1's CSI. A process has at most 15 octets.
PROCESS, CONTAINER, INTERFACE = (
    "\x1b[2Jevl\u202e\x9b",
    "\x1b[2J\x1b]0;evil\x07\u202e",
    "x\x1b[2J\x9bev",
)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    with two_hosts("hn") as found:
        yield found


@contextlib.contextmanager
def container() -> Iterator[str]:
    """Makes a cgroup like LXC's, where the kernel half looks for containers."""
    number, _ = kernel_host.container_hierarchy()
    controller = ("", "memory", "pids", "devices")[number]
    root = f"/sys/fs/cgroup/{controller}" if controller else kernel_host.cgroup_root()
    path = f"{root}/lxc.payload.{CONTAINER}"
    os.mkdir(path)
    try:
        yield path
    finally:
        os.rmdir(path)


def disguise(actor: Actor, cgroup: str) -> None:
    actor.do(f"open('/proc/self/comm', 'wb').write({PROCESS.encode()!r})")
    with open(f"{cgroup}/cgroup.procs", "w") as processes:
        processes.write(str(actor.pid))


def test_flows_and_events(pair: tuple[Host, Host]) -> None:
    kinds = {
        "lines": ("flows", *OF_PORT), "tree": ("flows", *OF_PORT, "--tree"),
        "by container": ("flows", *OF_PORT, "--by", "container"),
        "by process": ("flows", *OF_PORT, "--by", "process"),
        "listening": ("flows", *OF_PORT, "--listening"), "events": ("events", *OF_PORT),
        "json": ("flows", *OF_PORT, "--json"),
    }  # fmt: skip
    with container() as cgroup, contextlib.ExitStack() as stack:
        client, server = stack.enter_context(actors(*pair))
        for actor in (client, server):
            disguise(actor, cgroup)
        found = {}
        for name, words in kinds.items():  # one after another, as attaching is slow on a busy core
            found[name] = Command(*words)
            stack.callback(found[name].kill)
            found[name].wait_for(2)
        server.do(f"l = socket.create_server(('', {PORT}))")
        client.do(f"s = socket.create_connection(({str(pair[1].four)!r}, {PORT}), 5)")
        server.do("c, _ = l.accept()")
        client.do("s.sendall(b'x'); s.close()")
        server.do("c.recv(9); c.close()")
        found["lines"].wait_for_output("state closed")
        found["events"].wait_for_output("CLOSE")
        found["listening"].wait_for_output("open tcp")
        outputs = {name: command.stop() for name, command in found.items()}
    for name, (output, errors) in outputs.items():
        assert output, name
        assert is_safe(output), (name, ascii(output))
        assert is_safe(errors), (name, ascii(errors))
        if not name.startswith("json"):
            assert "[2J" in output, (name, output)
    lines = [json.loads(line) for line in outputs["json"][0].splitlines()]
    assert lines


def test_interfaces(pair: tuple[Host, Host]) -> None:
    inside = ("ip", "netns", "exec", pair[0].name)
    run(*inside, "ip", "link", "add", "name", INTERFACE, "type", "bridge")
    for options in ((), ("--json",)):
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{pair[0].name}", *COMMAND, *options],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert "ev" in done.stdout
        assert is_safe(done.stdout), ascii(done.stdout)
