"""Tests that a collector's name gets another address while the old one is silent.

The name is in the real /etc/hosts. The probe has its own mount namespace, in which that is a file
of the test.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.programs import (
    SOCKFLOW,
    Program,
    free_port,
    is_listening,
    queued,
    running,
    wait_until,
)

_NAME = "collector.example"
_PORT = 24321
_OWN_HOSTS = 'mount --bind "$0" /etc/hosts && exec "$@"'
HURRY = ("--active-timeout", 1, "--interval", 0.2, "--template-refresh", 1)


@pytest.fixture
def traffic() -> Iterator[None]:
    """Sends a datagram every 50 ms."""
    done = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not done.wait(0.05):
                sender.sendto(b"x", ("127.0.0.1", _PORT))

    thread = threading.Thread(target=send)
    thread.start()
    yield
    done.set()
    thread.join()


@contextlib.contextmanager
def collecting(folder: Path, url: str, port: int, name: str) -> Iterator[Program]:
    command = [*SOCKFLOW, "collect", "--listen", url, "--json"]
    with running(command, folder, name) as program:
        wait_until(lambda: is_listening(port) or queued(port), f"a listener at port {port}")
        yield program


def name_at(hosts: Path, *addresses: str) -> None:
    """Gives the name these addresses. It writes the file in place, because that file is mounted."""
    lines = ["127.0.0.1 localhost", *(f"{address} {_NAME}" for address in addresses)]
    hosts.write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.usefixtures("traffic")
@pytest.mark.parametrize("scheme", ["ipfix", "netflow9", "ipfix+tcp", "ipfix+tls"])
def test_a_name_that_has_moved_is_followed(tmp_path: Path, scheme: str) -> None:
    """A new Transport Session has Templates and new sequence numbers.

    An additional address is no move.
    """
    is_stream = "+" in scheme
    port = free_port(socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM)
    ours, theirs = "", ""
    if scheme == "ipfix+tls":
        authority = Authority(tmp_path)
        pairs = [authority.issue(name) for name in ("probe", "collector")]
        ours, theirs = (f"?ca={authority.path}&cert={pair[0]}&key={pair[1]}" for pair in pairs)
    hosts = tmp_path / "hosts"
    name_at(hosts, "127.0.0.2")
    listen = scheme.replace("netflow9", "ipfix")
    probe_command = ("unshare", "-m", "sh", "-c", _OWN_HOSTS, hosts, *SOCKFLOW, "run",
                     "-e", f"{scheme}://{_NAME}:{port}{ours}", "--include", f"port={_PORT}", "-v",
                     *HURRY)  # fmt: skip
    with (
        collecting(tmp_path, f"{listen}://127.0.0.2:{port}{theirs}", port, "old") as old,
        running(probe_command, tmp_path, "probe") as probe,
    ):
        wait_until(lambda: old.output.count("\n") > 2, f"records at the old one: {probe.errors}")
        before = old.output.count("\n")
        name_at(hosts, "127.0.0.2", "127.0.0.3")
        wait_until(lambda: old.output.count("\n") > before + 4, "records at the old one still")
        assert "another address" not in probe.errors
        old.process.send_signal(signal.SIGSTOP)
        name_at(hosts, "127.0.0.3")
        url = f"{listen}://127.0.0.3:{port}{theirs}"
        with collecting(tmp_path, url, port, "new") as new:
            wait_until(lambda: new.output.count("\n") > 2, f"records at the new: {probe.errors}")
            assert probe.stop() == 0, probe.errors
            old.process.send_signal(signal.SIGCONT)
            wait_until(lambda: new.stop(signal.SIGINT) == 0, "the end of the new one")
    assert probe.errors.count("has another address now") == 1
    assert "0 records lost on the way, 0 broken messages, 0 sets without" in new.errors
    assert "Traceback" not in probe.errors
