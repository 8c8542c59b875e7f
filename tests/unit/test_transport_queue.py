"""Tests a stream's queue with any order of writes, acknowledgements and breaks."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from probe.export.transports.queue import StreamQueue
from tests.support.transport import numbers, train


@pytest.mark.parametrize("seed", range(30))
def test_every_message_arrives_or_is_lost_once(seed: int) -> None:
    chance = random.Random(seed)
    queue = StreamQueue(1 << 30)
    given, settled, lost = 0, [], []
    wire = b""  # sent over this connection, not acknowledged
    for _ in range(400):
        action = chance.randrange(4)
        if action == 0:
            count = chance.randint(1, 9)
            assert queue.offer(train(given, count, chance.choice((20, 33, 100))))
            given += count
        elif action == 1:
            pieces = queue.pieces(chance.randint(1, 400), chance.randint(1, 3))
            octets = b"".join(pieces)[: chance.randint(0, 400)]
            queue.take(len(octets))
            wire += octets
        elif action == 2:
            unacknowledged = chance.randint(0, len(wire))
            arrived = queue.acknowledge(unacknowledged)
            wire = wire[len(wire) - unacknowledged :]
            settled += [n for part in arrived for n in numbers(bytes(part.octets))]
        elif chance.random() < 0.2:
            lost += [n for part in queue.rewind() for n in numbers(bytes(part.octets))]
            wire = b""
        assert queue.waiting == queue.octets - queue.taken
    rest = [n for part in queue.drain() for n in numbers(bytes(part.octets))]
    assert sorted(settled + lost + rest) == list(range(given))
    assert settled == sorted(settled)
    assert queue.octets == queue.taken == queue.waiting == 0
    assert settled


def test_a_message_that_arrived_in_part_is_lost_and_the_others_wait_again() -> None:
    queue = StreamQueue(1000)
    assert queue.offer(train(0, 5))
    queue.take(370)
    assert [len(part) for part in queue.acknowledge(220)] == [1]
    assert queue.waiting == 130
    assert [numbers(bytes(part.octets)) for part in queue.rewind()] == [[1]]
    assert queue.waiting == 300
    assert [numbers(bytes(part.octets)) for part in queue.drain()] == [[2, 3, 4]]


def test_tcp_does_without_ssl() -> None:
    code = "import sys, probe.export.transports.sender, probe.export.transports.tcp\n"
    code += "sys.exit('ssl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0
