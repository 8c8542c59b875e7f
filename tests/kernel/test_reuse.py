"""UDP ports that go from one socket to the next, as those of a busy resolver do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab import Host, two_hosts
from metering import UDP, actors, metering

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
