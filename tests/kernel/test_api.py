"""Tests probe.api in a program: the example of docs/api.md, a thread, and what stays behind."""

from __future__ import annotations

import gc
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from probe.api import (
    RECORD_DTYPE,
    Batch,
    ConfigError,
    EventKind,
    Metering,
    Owner,
    SockflowError,
    address,
)
from tests.support.lab.hosts import Host, two_hosts
from tests.support.meters.actors import Actor, actors
from tests.support.meters.shell import ROOT

PORT = 7120


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    with two_hosts("ap") as found:
        yield found


def exchange(client: Actor, server: Actor, address: str, port: int) -> None:
    """Makes a connection for 1000 octets that the client closes."""
    server.do(f"l = socket.create_server(('', {port}))")
    client.do(f"s = socket.create_connection(({address!r}, {port}), 5)")
    server.do("c, _ = l.accept()")
    client.do("s.sendall(b'x' * 1000); s.close()")
    server.do("while c.recv(1000): pass\nc.close(); l.close()")


class Reader(threading.Thread):
    """Iterates in a thread and keeps the results."""

    def __init__(self, metering: Metering) -> None:
        super().__init__(daemon=True)
        self._metering = metering
        self.flows = np.zeros(0, RECORD_DTYPE)
        self.owners: dict[int, Owner] = {}
        self.listening: list[int] = []
        self.events: list[EventKind] = []
        self.batches = 0
        self.start()

    def run(self) -> None:
        for batch in self._metering:
            self.batches += 1
            self._keep(batch)

    def _keep(self, batch: Batch) -> None:
        self.flows = np.concatenate([self.flows, batch.flows])
        for side in ("source_owner", "destination_owner"):
            self.owners |= {index: batch.owners[index] for index in batch.flows[side].tolist()}
        self.listening += batch.sockets["local_port"].tolist()
        self.events += map(EventKind, batch.events["kind"])

    def stop(self) -> None:
        self._metering.stop()
        self.join(20)
        assert not self.is_alive()

    def wait(self, is_there: Callable[[], object]) -> None:
        deadline = time.monotonic() + 120
        while not is_there():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_the_example_of_the_page(pair: tuple[Host, Host], tmp_path: Path) -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    (example,) = (
        code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "probe.api" in code
    )
    assert len(example.strip().splitlines()) <= 12
    said = tmp_path / "said"  # not a pipe: other traffic on this host may fill it
    with actors(*pair) as (client, server), said.open("w") as file:
        program = subprocess.Popen(
            [sys.executable, "-c", example], cwd=ROOT, text=True,
            stdout=file, stderr=subprocess.PIPE,
        )  # fmt: skip
        while program.poll() is None:  # until it ends, since it does not report its start
            exchange(client, server, str(pair[1].four), PORT)
            time.sleep(0.1)
        _, errors = program.communicate()
    assert (program.returncode, errors) == (0, "")
    lines = [line for line in said.read_text().splitlines() if f"{pair[1].four} {PORT}" in line]
    assert lines
    assert all(re.fullmatch(rf"python\S* > \S+ {PORT} \d+ octets", line) for line in lines)


def test_in_a_thread_with_the_programs_own_traffic() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        rule = f"port={port},process={os.getpid()}"
        with Metering(interval=0.1, include=[rule], events=True) as metering:
            reader = Reader(metering)
            reader.wait(lambda: reader.batches)
            with socket.create_connection(("127.0.0.1", port)) as client:
                served, _ = server.accept()
                client.sendall(bytes(5000))
                assert len(served.recv(5000, socket.MSG_WAITALL)) == 5000
                served.close()
                reader.wait(lambda: reader.listening.count(port))
                reader.stop()
            assert not any(metering.losses().values())
    there = reader.flows[reader.flows["destination_port"] == port]
    assert 5000 < there["octets"].sum() < 7000
    assert address(there[0], "source") == "127.0.0.1"
    assert reader.events[:2] == [EventKind.CONNECT, EventKind.ACCEPT]
    assert {reader.owners[int(index)].process.pid for index in there["source_owner"]} == {
        os.getpid()
    }
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_two_at_once_and_nothing_stays_open(pair: tuple[Host, Host]) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with actors(*pair) as (client, server):
        directed = len(os.listdir("/proc/self/fd")) - before
        with (
            Metering(interval=0.1, include=[f"port={PORT}"]) as one,
            Metering(interval=0.1, include=[f"port={PORT + 1}"]) as other,
        ):
            readers = [Reader(one), Reader(other)]
            for reader in readers:
                reader.wait(lambda reader=reader: reader.batches)  # type: ignore[misc]
            for number in range(2):
                exchange(client, server, str(pair[1].four), PORT + number)
            for reader in readers:
                reader.stop()
        for number, reader in enumerate(readers):
            assert set(reader.flows["biflow_direction"].tolist()) == {1, 2}
            ports = {*reader.flows["source_port"], *reader.flows["destination_port"]}
            assert PORT + number in ports
            assert PORT + 1 - number not in ports
        del one, other, readers, reader
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == before + directed


def test_a_batch_that_is_left_in_the_middle() -> None:
    with Metering() as metering:
        for batch in metering:
            assert batch.flows.dtype == RECORD_DTYPE
            break
        with pytest.raises(SockflowError, match="once"):
            iter(metering)
    with pytest.raises(SockflowError, match="with"):
        iter(Metering())


def test_settings_that_cannot_be_used() -> None:
    with pytest.raises(ConfigError, match="unknown setting 'colector'"):
        Metering(colector="ebpf")
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        Metering(include=["nginx"])


def test_no_right_to_meter() -> None:
    program = (
        "from probe.api import *\n"
        "try:\n    Metering(collector='ebpf').__enter__()\n"
        "except KernelError as error: print('refused:', error)"
    )
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--clear-groups", "--inh-caps=-all", sys.executable, "-c",
         program], cwd=ROOT, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("refused: "), done.stderr
