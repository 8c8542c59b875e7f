"""Tests lifecycle events of real sockets: in order, each with its process, and complete."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from probe.api import address
from probe.flow.codes import EventKind
from probe.flow.owner import Owner, OwnerTable
from probe.flow.rows import Rows, concatenate_rows
from probe.kernel import host
from probe.kernel.libbpf import KernelObject
from probe.owners.users import UserNames
from probe.sources.ebpf import EbpfSource
from tests.support.lab.hosts import Host, run, two_hosts
from tests.support.meters.actors import Actor, actors

PORT, CLOSED = 7300, 7399
TCP, UDP = 6, 17
_SMALL_RING = 16384
_EVENT_OCTETS = 152  # including the ring's header


class Events:
    """A source and all the events that it has reported."""

    def __init__(self, collector: EbpfSource) -> None:
        self.owners, self.collector = collector.owners, collector
        collector.open()
        self._came = [collector.read_events()]

    def read(self) -> None:
        """Reads as a tick does, which also makes room in the rings of flows."""
        self.collector.read()
        self._came.append(self.collector.read_events())

    @contextlib.contextmanager
    def being_read(self) -> Iterator[None]:
        """Reads all the time, as a loop does."""
        is_over = threading.Event()

        def work() -> None:
            while not is_over.wait(0.05):
                self.read()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def of(self, *hosts: Host) -> Rows:
        """Returns the events in the namespaces of ``hosts``."""
        self.read()
        self._came = [concatenate_rows(self._came)]
        inodes = [os.stat(f"/run/netns/{host.name}").st_ino for host in hosts]
        found: Rows = self._came[0][np.isin(self._came[0]["netns_inode"], inodes)]
        return found

    def wait_for(self, count: int, *hosts: Host, kind: EventKind | None = None) -> Rows:
        """Waits for ``count`` events (of ``kind``), and checks that no more follow.

        Ends of connections take a moment.
        """
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            kinds = self.of(*hosts)["kind"]
            if (len(kinds) if kind is None else int((kinds == kind).sum())) >= count:
                break
            time.sleep(0.02)
        time.sleep(0.1)
        return self.of(*hosts)

    def owner(self, event: np.void) -> Owner:
        return self.owners[int(event["owner"])]

    def told(self, events: Rows) -> list[tuple[str, int | None]]:
        """Returns (kind, pid) of each event."""
        return [(EventKind(one["kind"]).name, self.owner(one).process.pid) for one in events]

    def of_containers(self) -> list[tuple[str, Owner]]:
        self.read()
        rows = concatenate_rows(self._came)
        return [
            (EventKind(one["kind"]).name, self.owner(one)) for one in rows[rows["ip_version"] == 0]
        ]

    def forget(self) -> None:
        self.read()
        self._came = [self._came[0][:0]]

    def losses(self) -> dict[str, int]:
        return {name: count for name, count in self.collector.losses().items() if count}


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts("ev") as found:
        yield found


@pytest.fixture(scope="module")
def ends(hosts: tuple[Host, Host]) -> Iterator[list[Actor]]:
    with actors(*hosts) as found:
        for family, to in ("AF_INET", hosts[1].four), ("AF_INET6", hosts[1].six):
            # resolves the neighbours first, so that no SYN waits for them and is sent again
            found[0].do(f"socket.socket(socket.{family}).connect_ex(({str(to)!r}, {CLOSED}))")
        yield found


@pytest.fixture(scope="module")
def opened() -> Iterator[Events]:
    events = Events(EbpfSource(OwnerTable(), UserNames(), events=True))
    yield events
    events.collector.close()


@pytest.fixture
def events(opened: Events, hosts: tuple[Host, Host]) -> Events:
    opened.of(*hosts)
    opened.forget()
    return opened


@pytest.fixture(params=[4, 6])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def address_of(host: Host, version: int) -> str:
    return str(host.four if version == 4 else host.six)


def listen(server: Actor, version: int) -> None:
    family = "AF_INET" if version == 4 else "AF_INET6"
    server.do(f"l = socket.create_server(('', {PORT}), family=socket.{family})")


def ports(event: np.void) -> tuple[str, int]:
    return address(event, "remote"), int(event["remote_port"])


def test_a_connection(
    events: Events, hosts: tuple[Host, Host], ends: list[Actor], version: int
) -> None:
    client, server = ends
    listen(server, version)
    to = address_of(hosts[1], version)
    began = time.time_ns()
    client.do(f"s = socket.create_connection(({to!r}, {PORT}), 5)")
    server.do("c, _ = l.accept()")
    client.do("s.sendall(b'x' * 5000); s.close()")
    server.do("while c.recv(9999): pass")
    server.do("c.close(); l.close()")
    found = events.wait_for(4, *hosts)
    assert events.told(found) == [
        ("CONNECT", client.pid), ("ACCEPT", server.pid), ("CLOSE", client.pid),
        ("CLOSE", server.pid),
    ]  # fmt: skip
    of_client, of_server = found[[0, 2]], found[[1, 3]]
    assert len(set(of_client["flow_id"])) == len(set(of_server["flow_id"])) == 1
    assert {ports(one) for one in of_client} == {(to, PORT)}
    assert {ports(one)[0] for one in of_server} == {address_of(hosts[0], version)}
    assert set(found["ip_version"]) == {version}
    assert set(found["protocol"]) == {TCP}
    assert of_client["role"].tolist() == [1, 1]
    assert of_server["role"].tolist() == [2, 2]
    assert found["tcp_state"].tolist() == [1, 1, 7, 7]
    assert of_client["tx_octets"][1] == of_server["rx_octets"][1] > 5000
    assert of_client["rx_packets"][1] == of_server["tx_packets"][1]
    assert (found["rtt_us"][[0, 2, 3]] > 0).all()
    assert not found["error"].any()
    times = found["time_ns"]
    assert (times[1:] >= times[:-1]).all()
    assert began <= times[0]
    assert times[-1] <= time.time_ns()
    assert events.losses() == {}


def test_the_listener_accepts_and_the_worker_closes(
    events: Events, hosts: tuple[Host, Host], ends: list[Actor]
) -> None:
    client, server = ends
    listen(server, 4)
    client.do(f"s = socket.create_connection(({str(hosts[1].four)!r}, {PORT}), 5)")
    worker = server.do("""
import os
c, _ = l.accept()
result = os.fork()
if not result:
    while c.recv(99): pass
    c.close()
    os._exit(0)
c.close(); l.close()
""")
    client.do("s.sendall(b'x'); s.close()")
    server.do(f"os.waitpid({worker}, 0)")
    found = events.wait_for(4, *hosts)
    assert events.told(found)[1] == ("ACCEPT", server.pid)
    assert events.told(found)[3] == ("CLOSE", worker)
    assert events.owner(found[3]).parent.pid == server.pid


def test_a_reset_waits_for_who_served(
    events: Events, hosts: tuple[Host, Host], ends: list[Actor]
) -> None:
    """The connection ends before its worker closes it. Only the close shows which worker it was."""
    client, server = ends
    listen(server, 4)
    client.do(f"s = socket.create_connection(({str(hosts[1].four)!r}, {PORT}), 5)")
    server.do("c, _ = l.accept()")
    client.do("""
import struct
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); s.close()
""")
    assert events.told(events.wait_for(3, *hosts))[2:] == [("CLOSE", client.pid)]
    worker = server.do("""
import os
result = os.fork()
if not result:
    time.sleep(0.2)
    c.close()
    os._exit(0)
c.close(); l.close()
os.waitpid(result, 0)
""")
    assert events.told(events.wait_for(4, *hosts))[3] == ("CLOSE", worker)


def test_a_refused_connection(
    events: Events, hosts: tuple[Host, Host], ends: list[Actor], version: int
) -> None:
    client, _ = ends
    to = address_of(hosts[1], version)
    code = client.do(f"""
try: socket.create_connection(({to!r}, {CLOSED}), 5)
except OSError as error: result = error.errno
""")
    (found,) = events.wait_for(1, *hosts)
    assert EventKind(found["kind"]) == EventKind.CONNECT_FAILED
    assert code == found["error"] == errno.ECONNREFUSED
    assert events.owner(found).process.pid == client.pid
    assert (ports(found), found["ip_version"]) == ((to, CLOSED), version)
    assert address(found, "local") == address_of(hosts[0], version)
    assert (found["tx_packets"], found["rx_packets"]) == (1, 1)


@pytest.mark.parametrize("to", ["203.0.113.7", "2001:db8::7", "::ffff:203.0.113.7"])
def test_no_route(events: Events, hosts: tuple[Host, Host], ends: list[Actor], to: str) -> None:
    """There is no SYN, and the socket keeps no errno.

    A socket that was never used makes no event.
    """
    client, _ = ends
    family = "AF_INET6" if ":" in to else "AF_INET"
    code = client.do(f"""
with socket.socket(socket.{family}) as never, socket.socket(socket.{family}) as s:
    try: s.connect(({to!r}, {PORT}))
    except OSError as error: result = error.errno
""")
    assert code == errno.ENETUNREACH
    (found,) = events.wait_for(1, *hosts)
    assert EventKind(found["kind"]) == EventKind.CONNECT_FAILED
    assert ports(found) == (to.removeprefix("::ffff:"), PORT)
    assert events.owner(found).process.pid == client.pid
    assert (found["error"], found["tx_packets"]) == (0, 0)


def test_retransmits_are_told_once_a_second(
    events: Events, hosts: tuple[Host, Host], ends: list[Actor]
) -> None:
    client, server = ends
    listen(server, 4)
    hosts[1].lose(50)
    try:
        client.do(f"s = socket.create_connection(({str(hosts[1].four)!r}, {PORT}), 20)")
        server.do("c, _ = l.accept(); c.settimeout(120)")
        client.do("""
import threading
sending = threading.Thread(target=s.sendall, args=(b'x' * 4_000_000,)); sending.start()
""")
        server.do("left = 4_000_000\nwhile left: left -= len(c.recv(left))")
        total = client.do("""
import struct
sending.join()
result = struct.unpack_from("I", s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0]
""")
        client.do("s.close()")
        server.do("c.close(); l.close()")
    finally:
        hosts[1].exec("nft", "delete", "table", "inet", "loss")
    found = events.wait_for(2, *hosts, kind=EventKind.CLOSE)
    ours = found[(found["kind"] == EventKind.RETRANSMIT) & (found["remote_port"] == PORT)]
    assert 0 < ours["count"].sum() <= total
    assert {pid for _, pid in events.told(ours)} == {client.pid}
    assert (np.diff(ours["time_ns"]) >= 1_000_000_000).all()
    assert total > 100  # from 2900 segments
    assert len(ours) <= 2 + (found["time_ns"][-1] - found["time_ns"][0]) // 1_000_000_000


def test_first_datagrams(
    events: Events, hosts: tuple[Host, Host], ends: list[Actor], version: int
) -> None:
    """Two clients have one server.

    Each flow has an event for its first datagram of each way, and no more.
    """
    client, server = ends
    family = "AF_INET" if version == 4 else "AF_INET6"
    make = f"socket.socket(socket.{family}, socket.SOCK_DGRAM)"
    to = address_of(hosts[1], version)
    server.do(f"v = {make}; v.bind(('', {PORT}))")
    client.do(f"clients = [{make}, {make}]")
    for _ in range(2):
        for number in range(2):
            client.do(f"clients[{number}].sendto(b'question', ({to!r}, {PORT}))")
            server.do("data, peer = v.recvfrom(99); v.sendto(b'an answer', peer)")
            client.do(f"clients[{number}].recv(99)")
        events.read()  # this resets the counters
    found = events.wait_for(8, *hosts)
    names = [("SEND", client.pid), ("RECV", server.pid), ("SEND", server.pid),
             ("RECV", client.pid)]  # fmt: skip
    assert events.told(found) == names * 2
    header = 28 if version == 4 else 48
    assert found["tx_octets"].tolist() == [header + 8, 0, header + 9, 0] * 2
    assert found["rx_octets"].tolist() == [0, header + 8, 0, header + 9] * 2
    assert found["role"].tolist() == [1, 2, 2, 1] * 2
    assert set(found["ip_version"]) == {version}
    assert ports(found[0]) == (to, PORT)
    client.do("for one in clients: one.close()")
    server.do("v.close()")


def test_none_is_missing_in_ten_thousand(events: Events, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    server = b.start_traffic("serve", PORT, "--reply", 1)
    with events.being_read():
        client = a.begin_traffic("short", b.four, PORT, 10_000, "--reply", 1, "--parallel", 4)
        assert client.wait(120) == 0
    found = events.wait_for(40_000, *hosts)
    kinds = Counter(events.told(found))
    assert kinds == dict.fromkeys(
        [("CONNECT", client.pid), ("CLOSE", client.pid), ("ACCEPT", server.pid),
         ("CLOSE", server.pid)], 10_000,
    )  # fmt: skip
    order = np.lexsort((found["time_ns"], found["flow_id"]))
    pairs = found["kind"][order].reshape(-1, 2)
    assert (pairs[:, 1] == EventKind.CLOSE).all()  # is the last event of each flow
    assert len(set(found["flow_id"].tolist())) == 20_000
    assert events.losses() == {}
    b.stop()


def test_a_container_without_any_runtime(events: Events) -> None:
    id_ = "c0ffee" + "0" * 58
    with cgroup(f"docker-{id_}.scope") as path:
        run("sh", "-c", f"echo $$ > {path}/cgroup.procs; exec sleep 0")
        os.mkdir(f"{path}/inner")  # a part of the container, not another one
        os.rmdir(f"{path}/inner")
    found = [(kind, owner) for kind, owner in events.of_containers() if owner.container.id == id_]
    assert [kind for kind, _ in found] == ["CONTAINER_START", "CONTAINER_STOP"]
    assert {owner.process.name for _, owner in found} == {"sleep"}
    assert {owner.parent.pid for _, owner in found} == {os.getpid()}
    assert {owner.process.uid for _, owner in found} == {0}


def test_a_container_in_which_nothing_ran(events: Events) -> None:
    id_ = "decaf0" + "0" * 58
    with cgroup(f"docker-{id_}.scope"):
        pass
    found = [(kind, owner) for kind, owner in events.of_containers() if owner.container.id == id_]
    assert [(kind, owner.process.pid) for kind, owner in found] == [
        ("CONTAINER_START", None), ("CONTAINER_STOP", None),
    ]  # fmt: skip


@contextlib.contextmanager
def cgroup(name: str) -> Iterator[str]:
    """Makes a cgroup in the hierarchy that the kernel half reads."""
    number, _ = host.container_hierarchy()
    controller = ("", "/memory", "/pids", "/devices")[number]
    path = f"{'/sys/fs/cgroup' + controller if controller else host.cgroup_root()}/{name}"
    os.mkdir(path)
    try:
        yield path
    finally:
        os.rmdir(path)


class _SmallRing(EbpfSource):
    def _configured(self, luxuries: list[str], left_out: list[str]) -> KernelObject:
        kernel = super()._configured(luxuries, left_out)
        kernel.resize_map("event_ring", _SMALL_RING)
        return kernel


def test_a_full_ring_drops_the_newest_and_no_flow(
    hosts: tuple[Host, Host], ends: list[Actor]
) -> None:
    client, server = ends
    events = Events(_SmallRing(OwnerTable(), UserNames(), events=True))
    try:
        listen(server, 4)
        client.do(f"""
for _ in range(100):
    s = socket.create_connection(({str(hosts[1].four)!r}, {PORT}), 5)
    s.close()
""")
        server.do("for _ in range(100): l.accept()[0].close()\nl.close()")
        rows = events.collector.read().rows
        found = events.of(*hosts)
        inodes = [os.stat(f"/run/netns/{host.name}").st_ino for host in hosts]
        assert np.isin(rows["netns_inode"], inodes).sum() == 200
        told = events._came[0]
        assert len(told) == _SMALL_RING // _EVENT_OCTETS
        assert events.told(found)[0] == ("CONNECT", client.pid)
        assert events.losses()["event_ring_full"] >= 400 - len(found) > 250
        client.do(f"socket.socket().connect_ex(({str(hosts[1].four)!r}, {CLOSED}))")
        assert events.told(events.of(*hosts))[-1] == ("CONNECT_FAILED", client.pid)
    finally:
        events.collector.close()


def test_off_nothing_of_it_is_in_the_kernel() -> None:
    collector = EbpfSource(OwnerTable(), UserNames())
    collector.open()
    try:
        names = [
            name
            for pointer, name, _ in collector._object.programs()
            if collector._object.is_loaded(pointer)
        ]
        assert "tcp_events" in names
        assert not {"tcp_retransmitted", "cgroup_made", "cgroup_removed", "program_executed",
                    "connecting6"}.intersection(names)  # fmt: skip
        assert "tp_btf/cgroup_mkdir" not in collector.hooks
        for name in ("event_ring", "retransmits", "young_cgroups"):
            assert collector._object.map_fd(name) < 0
        assert len(collector.read_events()) == 0
    finally:
        collector.close()
