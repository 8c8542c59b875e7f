"""Tests that a connection uses a slot, or socket storage if its slot is taken."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from probe.flow.codes import OwnerSource
from probe.flow.rows import Rows
from tests.support.lab.hosts import Host, run
from tests.support.meters.actors import actors
from tests.support.meters.ebpf import Meter

SLOTS = 16_384  # as in bpf/slots.h
TCP = 6
_SO_COOKIE = 57


def slot_of(sock: socket.socket) -> int:
    cookie = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8), "little")
    return cookie % SLOTS


def with_the_slot_of(other: socket.socket) -> socket.socket:
    """Returns a new socket whose cookie selects the same slot."""
    wanted = slot_of(other)
    for _ in range(20 * SLOTS):
        found = socket.socket()
        if slot_of(found) == wanted:
            return found
        found.close()
    raise AssertionError("no new socket had a cookie that selects this slot")


@pytest.fixture(params=[True, False], ids=["slots", "as before Linux 6.2"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meter]:
    """Yields a meter with slots, and one as on a kernel that cannot read sockets by address."""
    monkeypatch.setattr("probe.kernel.host.has_kernel_function", lambda _: request.param)
    found = Meter()
    yield found
    found.collector.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


class Connection:
    """A connected client and its peer."""

    def __init__(self, server: socket.socket, client: socket.socket) -> None:
        client.connect(server.getsockname())
        self.client, (self.peer, _) = client, server.accept()
        self.port = client.getsockname()[1]

    def send(self, octets: int) -> None:
        self.client.sendall(bytes(octets))
        received = 0
        while received < octets:
            received += len(self.peer.recv(octets))

    def close(self) -> None:
        self.client.close()
        self.peer.recv(1)
        self.peer.close()

    def ends(self, rows: Rows) -> tuple[Rows, Rows]:
        """Returns (the client's rows, the peer's rows)."""
        return rows[rows["local_port"] == self.port], rows[rows["remote_port"] == self.port]


def test_a_connection_that_finds_its_slot_taken_is_metered_too(
    meter: Meter, server: socket.socket
) -> None:
    """Three connections share a slot.

    The second one finds it taken, the third one finds it free again.
    """
    first = Connection(server, socket.socket())
    second = Connection(server, with_the_slot_of(first.client))
    first.send(1000)
    second.send(2000)
    meter.read()
    for connection in (first, second):
        connection.send(3000)
    first.close()
    third = Connection(server, with_the_slot_of(second.client))
    third.send(4000)
    meter.read()
    second.close()
    third.close()
    meter.read()
    for connection, payload in ((first, 4000), (second, 5000), (third, 4000)):
        here, there = connection.ends(meter.rows)
        assert len(np.unique(here["id"])) == len(np.unique(there["id"])) == 1
        packets = int(here["tx_packets"].sum())
        # SYN 60, then 52 for each header: 32 of TCP with timestamps and 20 of IPv4
        assert here["tx_octets"].sum() == 60 + (packets - 1) * 52 + payload
        assert there["rx_octets"].sum() == here["tx_octets"].sum()
        assert there["rx_packets"].sum() == packets
        assert there["tx_octets"].sum() == here["rx_octets"].sum()


def test_each_report_tells_what_is_new(either: Meter, server: socket.socket) -> None:
    """The slot keeps the reported counters in two copies, used in turn."""
    connection = Connection(server, socket.socket())
    either.read()
    for octets in (100, 2000, 30, 4000, 500):
        connection.send(octets)
        here, there = connection.ends(either.read())
        assert len(here) == len(there) == 1
        assert int(here["tx_octets"][0]) == octets + 52 * int(here["tx_packets"][0])
        assert int(there["rx_octets"][0]) == octets + 52 * int(there["rx_packets"][0])
        assert not len(connection.ends(either.read())[0]), "nothing is new"
    connection.close()
    here, there = connection.ends(either.read())
    assert here["tx_octets"].sum() == 52 * 2, "FIN, and the ACK of the peer's"
    assert there["rx_octets"].sum() == 52 * 2


def test_a_snapshot_beside_connections_that_come_and_go(
    either: Meter, hosts: tuple[Host, Host]
) -> None:
    """It reads their sockets without holding them, so connections do not wait."""
    here, there = hosts
    count = 6000
    there.start_traffic("serve", 7000)
    either.forget()
    for host in hosts:
        host.reset_counters()
    running = here.begin_traffic("short", there.four, 7000, count, "--parallel", 8)
    parts, passes = [], 0
    while running.poll() is None:
        parts.append(either.collector.read().rows.copy())
        passes += 1
    assert running.returncode == 0
    there.stop()
    parts.append(either.collector.read().rows.copy())
    either.rows = np.concatenate(parts)
    assert passes > 100
    assert either.collector.losses()["flow_ring_full"] == 0
    for host in hosts:
        rows, truth = either.of(host, TCP), host.counted()
        assert len(np.unique(rows["id"])) == count
        assert len(rows) > count, "some were seen while they lived"
        assert (rows["tx_octets"] < 10_000).all(), "none has the counters of another"
        for way, measured in (("out", "tx"), ("in", "rx")):
            true = truth[f"tcp_{way}"]
            packets = int(rows[f"{measured}_packets"].sum())
            octets = int(rows[f"{measured}_octets"].sum())
            assert abs(packets - true.packets) <= 0.0001 * true.packets
            assert abs(octets - true.octets) <= 0.0001 * true.octets


def test_slots_are_released(meter: Meter, hosts: tuple[Host, Host]) -> None:
    """Without socket storage there are only slots. Each slot is taken twice here."""
    here, there = hosts
    count = SLOTS
    for host in hosts:
        run("ip", "netns", "exec", host.name, "sysctl", "-qw", "net.core.optmem_max=0")
    there.start_traffic("serve", 7000)
    meter.forget()
    for _ in range(4):
        here.traffic("short", there.four, 7000, count // 4, "--parallel", 4)
        meter.read()
    there.stop()
    meter.read()
    missing = sum(count - len(np.unique(meter.of(host, TCP)["id"])) for host in hosts)
    # Other sockets of this host hold some slots. A connection that finds its slot taken is counted.
    assert missing == meter.collector.losses()["storage_failed"]
    assert missing < count / 100


@pytest.mark.parametrize("addresses", [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "127.0.0.2")])
def test_who_listens_beside_others_at_one_port(meter: Meter, addresses: tuple[str, str]) -> None:
    """Until its worker is known, a connection belongs to the listener that it reached."""
    with actors(None, None) as listeners, contextlib.ExitStack() as stack:
        port = 0
        for listener, address in zip(listeners, addresses, strict=True):
            port = listener.do(f"""
l = socket.socket()
l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
l.bind(({address!r}, {port}))
l.listen(64)
result = l.getsockname()[1]
""")
        calls = [
            stack.enter_context(socket.create_connection((address, port)))
            for address in itertools.islice(itertools.cycle(addresses), 20)
        ]
        rows = meter.read()
        rows = rows[(rows["local_port"] == port) & (rows["owner_source"] == OwnerSource.LISTENER)]
        assert len(rows) == len(calls)
        named = {
            int(row["remote_port"]): meter.owners[int(row["owner"])].process.pid for row in rows
        }
        true: dict[int, int] = {}
        for listener in listeners:
            peers = listener.do("""
l.settimeout(0.3)
result, kept = [], []
try:
    while True:
        kept.append(l.accept())
        result.append(kept[-1][1][1])
except TimeoutError:
    pass
""")
            assert peers
            true |= dict.fromkeys(peers, listener.pid)
        assert named == true


def test_a_listener_older_than_the_probe(server: socket.socket) -> None:
    with actors(None) as (listener,):
        port = listener.do("""
l = socket.create_server(("127.0.0.1", 0))
result = l.getsockname()[1]
""")
        meter = Meter()
        try:
            with socket.create_connection(("127.0.0.1", port)):
                rows = meter.read()
            (row,) = rows[rows["local_port"] == port]
            assert row["owner_source"] == OwnerSource.LISTENER
            assert meter.owners[int(row["owner"])].process.pid == listener.pid
        finally:
            meter.collector.close()
