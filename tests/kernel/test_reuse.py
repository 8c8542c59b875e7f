"""Tests UDP ports that pass from one socket to the next, like those of a busy resolver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.lab.hosts import Host, two_hosts
from tests.support.meters.actors import UDP, actors, metering

_CLIENT = """
for _ in range({count}):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("", 5353))
    s.sendto(b"q" * 100, ("{server}", 7000))
    s.recv(1000)
    s.close()
    time.sleep({pause})
"""


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    with two_hosts("sr") as hosts:
        yield hosts


@pytest.mark.parametrize(("count", "pause"), [(200, 0), (4, 0.7), (2, 2)])
def test_a_port_that_is_used_again(pair: tuple[Host, Host], count: int, pause: float) -> None:
    here, there = pair
    there.start_traffic("udp-serve", 7000)
    with metering() as process, actors(here) as (client,):
        process.tick()
        for host in pair:
            host.reset_counters()
        for _ in range(2):
            client.do(_CLIENT.format(count=count // 2, server=there.four, pause=pause))
            process.tick_for(0.3)
        process.flush()
        records = process.of(pair, UDP)
    sent = records[records["source_port"] == 5353]["packets"].sum()
    answered = records[records["source_port"] == 7000]["packets"].sum()
    assert sent == here.counted()["udp_out"].packets == count
    assert answered == there.counted()["udp_out"].packets == count


_CLIENTS = """
pids = []
for _ in range({count}):
    pid = os.fork()
    if not pid:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(120)
        s.bind(("", 5353))
        s.sendto(b"q" * 100, ("{server}", 7000))
        s.recv(1000)
        os._exit(0)
    os.waitpid(pid, 0)
    pids.append(pid)
result = pids
"""


@pytest.mark.parametrize("drained", [False, True], ids=["read", "drained"])
def test_processes_that_follow_each_other_on_a_port(pair: tuple[Host, Host], drained: bool) -> None:
    """Each has its own record, with one datagram each way and the server at the other end.

    This holds even if the ring of ended flows is emptied between two snapshots, as on a busy host.
    """
    here, there = pair
    there.start_traffic("udp-serve", 7000)
    pids: list[int] = []
    with metering() as process, actors(here) as (client,):
        client.do("import os")
        process.tick()
        for _ in range(3):
            for _ in range(5):
                pids += client.do(_CLIENTS.format(count=10, server=there.four))
                if drained:
                    process.drain()
            process.tick_for(0.2)
        process.flush()
        records = process.of(pair, UDP)
        sent = records[records["source_port"] == 5353]
        answers = records[records["source_port"] == 7000]
        senders = Counter(dict.fromkeys(pids, 0))
        receivers = Counter(senders)
        servers = {process.owner(record, "destination").process.pid for record in sent}
        for record in sent:
            senders[process.owner(record, "source").process.pid or 0] += int(record["packets"])
        for record in answers:
            receivers[process.owner(record, "destination").process.pid or 0] += int(
                record["packets"]
            )
    assert senders == receivers == dict.fromkeys(pids, 1)
    assert len(servers) == 1
    assert None not in servers
