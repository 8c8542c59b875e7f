"""Tests owners of flows that the kernel half finds, for sockets and processes of every kind."""

from __future__ import annotations

import errno
import json
import os
import pwd
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np

from probe.flow.codes import Mark, OwnerSource, Role
from probe.flow.owner import Owner, OwnerTable
from probe.flow.rows import Rows
from probe.owners.users import UserNames
from probe.sources.ebpf import EbpfSource
from tests.support.lab.hosts import Host
from tests.support.meters.ebpf import Meter

UDP = 17


def python(code: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def owner(meter: Meter, row: np.void) -> Owner:
    return meter.owners[int(row["owner"])]


def with_port(rows: Rows, side: str, port: int) -> Rows:
    found: Rows = rows[rows[f"{side}_port"] == port]
    return found


def test_both_ends_of_a_connection(meter: Meter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = python(f"""
            import socket
            s = socket.create_connection(("127.0.0.1", {port}))
            s.send(b"x"); s.recv(1); s.close()
        """)
        connection, _ = server.accept()
        connection.recv(1)
        connection.send(b"y")
        client.wait()
        connection.close()
    meter.read()
    (calling,) = with_port(meter.rows, "remote", port)
    (serving,) = with_port(meter.rows, "local", port)
    assert (calling["role"], serving["role"]) == (Role.INITIATOR, Role.RESPONDER)
    assert calling["owner_source"] == serving["owner_source"] == OwnerSource.SOCKET_CALL
    who = owner(meter, calling)
    assert (who.process.pid, who.parent.pid) == (client.pid, os.getpid())
    assert who.process.path == os.path.realpath(sys.executable)
    assert who.process.path_source == "walked"
    assert who.parent.path == os.path.realpath("/proc/self/exe")
    assert (who.process.uid, who.process.gid, who.process.user_name) == (
        os.getuid(),
        os.getgid(),
        pwd.getpwuid(os.getuid()).pw_name,
    )
    assert owner(meter, serving).process.pid == os.getpid()


def test_a_process_of_a_few_milliseconds(meter: Meter, hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    there.start_traffic("udp-serve", 7000)
    meter.forget()
    # bash's own /dev/udp connects, sends one datagram and ends
    here.exec("bash", "-c", f"exec -a short bash -c 'echo x > /dev/udp/{there.four}/7000'")
    meter.read()
    (row,) = meter.of(here, UDP)
    assert owner(meter, row).process.name == "bash"
    assert owner(meter, row).process.path.endswith("/bash")
    assert not os.path.exists(f"/proc/{owner(meter, row).process.pid}")


def preforking_server() -> tuple[subprocess.Popen[str], int, int]:
    """Starts a server whose child accepts one connection.

    Returns it, its port and the child's pid.
    """
    server = python("""
        import os, socket
        s = socket.create_server(("127.0.0.1", 0))
        child = os.fork()
        if child:
            print(s.getsockname()[1], child, flush=True)
            os.wait()
        else:
            c, _ = s.accept()
            while c.recv(1):
                c.send(b"y")
            c.close()
    """)
    assert server.stdout
    port, worker = map(int, server.stdout.readline().split())
    return server, port, worker


def test_the_worker_of_a_preforking_server(meter: Meter) -> None:
    server, port, worker = preforking_server()
    with socket.create_connection(("127.0.0.1", port)) as client:
        for _ in range(2):
            client.send(b"x")
            client.recv(1)
    server.wait()
    meter.read()
    (row,) = with_port(meter.rows, "local", port)
    assert owner(meter, row).process.pid == worker != server.pid
    assert row["owner_source"] == OwnerSource.SOCKET_CALL


def test_a_live_worker_is_found_by_its_descriptor(meter: Meter) -> None:
    server, port, worker = preforking_server()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.send(b"x")
        client.recv(1)
        (row,) = with_port(meter.read(), "local", port)
        assert row["owner_source"] == OwnerSource.LISTENER
        assert owner(meter, row).process.pid == server.pid
        time.sleep(5.1)  # descriptor tables are read every five seconds at most
        client.send(b"x")
        client.recv(1)
        (row,) = with_port(meter.read(), "local", port)
        assert row["owner_source"] == OwnerSource.DESCRIPTOR
        assert owner(meter, row).process.pid == worker
    server.wait()


def test_sockets_older_than_the_probe() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind(("127.0.0.1", 0))
        connection, _ = server.accept()
        client.send(b"o" * 100_000)
        time.sleep(0.1)
        connection.recv(200_000)
        began = time.monotonic_ns()
        meter = Meter()
        client.send(b"n" * 100)
        connection.recv(200)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(b"u" * 10, datagrams.getsockname())
        meter.read()
        meter.collector.close()
        port = server.getsockname()[1]
        (row,) = with_port(meter.rows, "remote", port)
        assert row["tx_octets"] == 152
        assert row["tx_packets"] == 1
        assert row["mark"] & Mark.PREEXISTING
        assert row["start_ns"] > began
        assert row["owner_source"] == OwnerSource.DESCRIPTOR
        assert owner(meter, row).process.pid == os.getpid()
        (served,) = with_port(meter.rows, "local", port)
        assert (row["role"], served["role"]) == (Role.INITIATOR, Role.RESPONDER)
        assert served["isn_local"] == row["isn_remote"]
        assert served["isn_remote"] == row["isn_local"]
        (udp,) = with_port(meter.rows, "local", datagrams.getsockname()[1])
        assert (udp["rx_octets"], udp["rx_packets"]) == (38, 1)
        assert owner(meter, udp).process.pid == os.getpid()
        connection.close()


def test_the_users_identity_follows_setuid(meter: Meter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = python(f"""
            import os, socket
            socket.create_connection(("127.0.0.1", {port})).close()
            os.setgid(65534); os.setuid(65534)
            socket.create_connection(("127.0.0.1", {port})).close()
        """)
        for _ in range(2):
            server.accept()[0].close()
        client.wait()
    meter.read()
    users = {owner(meter, row).process.uid for row in with_port(meter.rows, "remote", port)}
    assert users == {0, 65534}


def test_the_path_is_the_processs_own_view(meter: Meter, tmp_path: Path) -> None:
    """In a chroot the path of the executable begins at the process's root."""
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin" / "busybox").chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = subprocess.Popen(
            ["/usr/sbin/chroot", str(root), "/bin/busybox", "nc", "127.0.0.1", str(port)],
            stdin=subprocess.DEVNULL,
        )
        connection, _ = server.accept()
        connection.close()
        client.wait()
    meter.read()
    (row,) = with_port(meter.rows, "remote", port)
    assert owner(meter, row).process.path == "/bin/busybox"


def test_ipv4_mapped_addresses_are_ipv4(meter: Meter) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(("::", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            connection, _ = server.accept()
            connection.close()
            client.recv(1)
    meter.read()
    (row,) = with_port(meter.rows, "local", port)
    assert row["ip_version"] == 4
    assert bytes(row["local_address"]) == bytes([127, 0, 0, 1]) + bytes(12)


def test_nothing_stays_in_the_kernel() -> None:
    code = """
        import time
        from probe.sources.ebpf import EbpfSource
        from probe.flow.owner import OwnerTable
        from probe.owners.users import UserNames
        c = EbpfSource(OwnerTable(), UserNames()); c.open()
        print("open", flush=True); time.sleep(60)
    """
    child = python(code, cwd=Path(__file__).resolve().parents[2])
    assert child.stdout
    assert child.stdout.readline() == "open\n"
    programs = attached_programs(child.pid)
    assert len(programs) >= 8
    child.kill()
    child.wait()
    deadline = time.monotonic() + 120
    while programs & loaded_programs() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not programs & loaded_programs()


def attached_programs(pid: int) -> set[int]:
    """Returns the ids of the programs behind a process's BPF links."""
    found = set()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        if "link_id" in lines and "prog_id" in lines:
            found.add(int(lines["prog_id"]))
    return found


def loaded_programs() -> set[int]:
    text = subprocess.run(
        ["bpftool", "-j", "prog", "show"], capture_output=True, text=True, check=True
    ).stdout
    return {int(program["id"]) for program in json.loads(text)}


def test_a_second_collector_beside_the_first(meter: Meter) -> None:
    other = EbpfSource(OwnerTable(), UserNames())
    other.open()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()
        server.accept()[0].close()
    rows = other.read().rows
    other.close()
    meter.read()
    assert len(with_port(rows, "remote", port)) == 1
    assert len(with_port(meter.rows, "remote", port)) == 1


def test_a_refused_connection_and_another_on_the_same_descriptor(meter: Meter) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as closed,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        closed.bind(("127.0.0.1", 0))
        refused, open_ = closed.getsockname()[1], server.getsockname()[1]
        assert client.connect_ex(("127.0.0.1", refused)) == errno.ECONNREFUSED
        client.connect(("127.0.0.1", open_))
        server.accept()[0].close()
    meter.read()
    (failed,) = with_port(meter.rows, "remote", refused)
    assert (failed["tx_packets"], failed["tx_octets"]) == (1, 60)
    assert (failed["rx_packets"], failed["rx_octets"]) == (1, 40)
    assert failed["rx_flags"] & 0x04
    (second,) = with_port(meter.rows, "remote", open_)
    assert second["isn_remote"]


def test_a_udp_server_that_was_busy_when_the_probe_came() -> None:
    """Peers whose datagrams arrive before owners are searched get their owner later."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        clients = python(f"""
            import socket, time
            sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(8)]
            end = time.monotonic() + 4
            while time.monotonic() < end:
                for s in sockets:
                    s.sendto(b"x", ("127.0.0.1", {port}))
        """)
        time.sleep(0.5)
        meter = Meter()
        meter.read()
        clients.wait()
        meter.read()
        meter.collector.close()
    last = {int(row["id"]): row for row in with_port(meter.rows, "local", port)}
    assert len(last) == 8
    assert {owner(meter, row).process.pid for row in last.values()} == {os.getpid()}


def test_command_lines_only_when_asked_for(meter: Meter) -> None:
    asked = EbpfSource(owners := OwnerTable(), UserNames(), command_lines=True)
    asked.open()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = python(f"""
            import socket, sys  # a secret
            socket.create_connection(("127.0.0.1", {port})); sys.stdin.read()
        """)
        connection, _ = server.accept()
        found = with_port(asked.read().rows, "remote", port)
        meter.read()
        asked.close()
        client.communicate("")
        connection.close()
    assert owners[int(found[0]["owner"])].process.command_line.startswith(
        f"{sys.executable} -c \nimport"
    )
    assert not owner(meter, with_port(meter.rows, "remote", port)[0]).process.command_line
