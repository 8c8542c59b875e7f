"""Tests the running program: its end, its collectors' ends, garbage, and no terminal."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.interop.collectors import Collect, Nfcapd
from tests.support.interop.flows import UDP, sent_by
from tests.support.interop.workload import INCLUDE, Workload
from tests.support.ipfix.messages import message, template
from tests.support.lab.hosts import Host
from tests.support.programs import (
    LOOPBACK,
    SOCKFLOW,
    Datagrams,
    free_port,
    ipfix,
    is_in_kernel,
    kernel_ids,
    probing,
    running,
    wait_for_listener,
    wait_for_reader,
    wait_until,
)


@pytest.fixture(scope="module")
def workload(hosts: tuple[Host, Host]) -> Workload:
    return Workload(hosts)


@pytest.fixture
def collect(tmp_path: Path) -> Iterator[Collect]:
    with contextlib.closing(Collect(tmp_path)) as collector:
        yield collector


def assert_all_datagrams(workload: Workload, collector: Collect | Nfcapd) -> None:
    for host in workload.hosts:
        assert sent_by(collector.flows(), host, UDP) == workload.truth(host, "udp")


def test_duration_ends_with_everything_exported(
    workload: Workload, collect: Collect, tmp_path: Path
) -> None:
    """The probe ends by itself and in time.

    It exports what the default timeouts still held (reason 4).
    """
    workload.begin()
    started = time.monotonic()
    with probing(tmp_path, "-e", ipfix(collect.port), "--duration", 4, *INCLUDE) as probe:
        workload.datagrams(50)
        assert probe.process.wait(120) == 0
        assert 4 <= time.monotonic() - started < 120
    collect.finish()
    assert_all_datagrams(workload, collect)
    assert {record["flowEndReason"] for record in collect.records()} >= {4}
    assert "0 records lost on the way, 0 broken messages, 0 sets without" in collect.program.errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_in_time_though_a_collector_is_gone(tmp_path: Path, number: int) -> None:
    """Undelivered records are dropped and counted in the summary."""
    with probing(tmp_path, "-e", ipfix(free_port()), "-e", "ipfix://collector.invalid") as probe:
        started = time.monotonic()
        assert probe.stop(number) == 0
        assert time.monotonic() - started < 60
        assert "records_dropped" in probe.errors


def test_no_flow_is_the_probes_own(collect: Collect, tmp_path: Path) -> None:
    """Neither its sockets nor the other local ends of its sessions make flows.

    Other sockets at that port do.
    """
    with probing(
        tmp_path, "-e", ipfix(collect.port), "--include", f"cidr=127.0.0.0/8,port={collect.port}",
        "--template-refresh", 1, "--interval", 0.2,
    ) as probe:  # fmt: skip
        time.sleep(2.5)
        stranger = _throw([b"no IPFIX"], collect.port)
        assert probe.stop() == 0
    collect.finish()
    flows = [one[:6] for one in collect.flows()]
    assert flows == [(LOOPBACK, LOOPBACK, stranger, collect.port, UDP, 1)]
    assert int(probe.errors.partition("own traffic left out: ")[2].split()[0]) >= 6


def test_sigkill_leaves_nothing_in_the_kernel(tmp_path: Path) -> None:
    """No link, program or map remains, because nothing is pinned."""
    with probing(tmp_path) as probe:
        held = kernel_ids(probe.process.pid)
        assert {kind for kind, _ in held} == {"link", "prog", "map"}
        assert all(is_in_kernel(*one) for one in held)
        assert probe.stop(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: not any(is_in_kernel(*one) for one in held), "eBPF objects gone", 10)


def test_unreachable_collector_costs_the_others_nothing(
    workload: Workload, collect: Collect, tmp_path: Path
) -> None:
    """It is reported once. It gets its records, with Templates, once it can be reached."""
    port = free_port()
    workload.begin()
    with probing(
        tmp_path, "-e", ipfix(port), "-e", ipfix(collect.port), "-v", "--interval", 0.2, *INCLUDE
    ) as probe:
        workload.datagrams(50)
        time.sleep(2)  # several attempts fail
        assert probe.errors.count(f"ipfix://{LOOPBACK}:{port}: Connection refused") == 1
        with contextlib.closing(Nfcapd(tmp_path, port)) as late:
            _play_until(workload, lambda: "reachable again" in probe.errors)
            workload.datagrams(50)
            assert probe.stop() == 0
            late.finish()
            flows, packets, _ = late.csv_sums()
    collect.finish()
    assert_all_datagrams(workload, collect)
    assert flows >= 80
    assert packets >= 10 * 50
    assert packets < sum(one.packets for one in collect.flows())


def _play_until(workload: Workload, seen: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not seen():
        assert time.monotonic() < end
        workload.datagrams(5)


def test_destinations_by_name_and_in_brackets(workload: Workload, tmp_path: Path) -> None:
    workload.begin()
    with contextlib.ExitStack() as stack:
        six = stack.enter_context(contextlib.closing(Collect(tmp_path, host="[::1]")))
        named = stack.enter_context(contextlib.closing(Collect(tmp_path, host="localhost")))
        targets = [word for one in (six, named) for word in ("-e", ipfix(one.port, one.host))]
        probe = stack.enter_context(probing(tmp_path, *targets, *INCLUDE))
        workload.datagrams(50)
        assert probe.stop() == 0, probe.errors
        for collector in (six, named):
            collector.finish()
            assert_all_datagrams(workload, collector)


def _garbage(messages: list[bytes]) -> list[bytes]:
    """Returns noise, and messages that are cut or have changed octets."""
    source = random.Random(7)
    noise = [source.randbytes(source.randrange(1, 1400)) for _ in range(300)]
    noise += [b"", b"\0", b"\0\x0a\xff\xff" + bytes(500)]
    for octets in messages * 20:
        broken = bytearray(octets)
        for _ in range(source.randrange(1, 8)):
            broken[source.randrange(len(broken))] = source.randrange(256)
        noise += [bytes(broken), octets[: source.randrange(len(octets))]]
    return noise


def _throw(datagrams: list[bytes], port: int) -> int:
    """Sends the datagrams, and returns the port that they came from."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thrower:
        for datagram in datagrams:
            thrower.sendto(datagram, (LOOPBACK, port))
        own: int = thrower.getsockname()[1]
        return own


def _sample(workload: Workload, folder: Path) -> list[bytes]:
    """Returns messages as the probe sends them."""
    with contextlib.closing(Datagrams()) as sample:
        with probing(folder, "-e", ipfix(sample.port), *INCLUDE) as probe:
            workload.datagrams(10)
            probe.stop()
        return sample.read()


def test_garbage_is_counted_and_never_fatal(
    workload: Workload, collect: Collect, tmp_path: Path
) -> None:
    """Garbage from others does not change the records of the probe."""
    garbage = _garbage(_sample(workload, tmp_path))
    _throw(garbage, collect.port)
    with contextlib.closing(Collect(tmp_path, host="localhost")) as clean:
        with probing(
            tmp_path, "-e", ipfix(collect.port), "-e", ipfix(clean.port), *INCLUDE
        ) as probe:
            _throw(garbage, collect.port)
            workload.datagrams(50)
            assert probe.stop() == 0, probe.errors
        _throw(garbage, collect.port)
        clean.finish()
    collect.finish()
    counted = collect.program.errors
    assert collect.program.process.returncode == 0, counted
    assert int(counted.partition(" broken messages")[0].split()[-1]) >= 3 * 300
    assert set(clean.program.output.splitlines()) <= set(collect.program.output.splitlines())
    assert len(clean.flows()) == 80


def test_garbage_on_the_live_table(tmp_path: Path) -> None:
    port = free_port()
    command = (*SOCKFLOW, "collect", "--listen", f"{LOOPBACK}:{port}")
    with running(command, tmp_path, "table") as table:
        wait_for_listener(port)
        _throw(_garbage([]), port)
        wait_for_reader(port)
        assert table.stop() == 0, table.errors
    assert "303 broken messages" in table.errors


def test_without_a_destination_flows_are_shown(workload: Workload, tmp_path: Path) -> None:
    """Without a terminal it shows lines, read from IPFIX over loopback, and then a summary."""
    command = (*SOCKFLOW, "run", *INCLUDE)
    with running(command, tmp_path, "shown") as shown:
        _play_until(workload, lambda: bool(shown.output))
        assert shown.stop(signal.SIGINT) == 0, shown.errors
    assert f"{workload.there.four}:7010" in shown.output
    assert f"[{workload.there.six}]:7011" in shown.output
    assert "\x1b" not in shown.output
    assert "lost: nothing" in shown.errors
    assert "0 records lost on the way" in shown.errors


def test_a_strangers_flows_are_not_shown(workload: Workload, tmp_path: Path) -> None:
    """Any user may send to a port on loopback, but users trust the live view."""
    fields = [(8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (1, 4), (2, 4)]
    ends = bytes([203, 0, 113, 66, 203, 0, 113, 67]) + struct.pack("!HHBII", 1, 2, 6, 3, 4)
    forged = message((2, template(256, *fields)), (256, ends))
    sent = 0
    with running((*SOCKFLOW, "run", *INCLUDE), tmp_path, "shown") as shown:
        end = time.monotonic() + 60
        while not (sent and shown.output) and time.monotonic() < end:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                for port in udp_ports(shown.process.pid):
                    stranger.sendto(forged, (LOOPBACK, port))
                    sent += 1
            workload.datagrams(5)
        assert shown.stop(signal.SIGINT) == 0, shown.errors
    assert sent
    assert f"{workload.there.four}:7010" in shown.output
    assert "203.0.113" not in shown.output
    assert "lost: nothing" in shown.errors
    assert "0 records lost on the way" in shown.errors


def udp_ports(pid: int) -> set[int]:
    """Returns the local ports of the process's UDP sockets."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
    lines = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return {int(words[1].partition(":")[2], 16) for words in lines if words[9] in inodes}
