"""Tests the collector's UDP socket: its reads are bounded, and it can be closed to strangers."""

from __future__ import annotations

import select
import socket

import pytest

from probe.collector import CollectorSocket
from probe.collector.message_source import MOST_OCTETS, MOST_RECORDS
from tests.support.ipfix.messages import message, template

FLOW = message((2, template(256, (1, 4))), (256, bytes(4)))


def test_records_come_in_pieces() -> None:
    """Reads are bounded by records.

    60 datagrams of 60 000 records of one octet once took 1.1 GB.
    """
    collector = CollectorSocket("127.0.0.1", 0, 32473)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
        exporter.connect(collector.address)
        exporter.send(message((2, template(256, (4, 1)))))
        most = total = 0
        for sequence in range(60):
            exporter.send(message((256, bytes(60_000)), sequence=60_000 * sequence))
            while sequence % 3 == 2 and select.select([collector], [], [], 0)[0]:
                count = len(collector.receive().flows)
                most, total = max(most, count), total + count
    assert total == 60 * 60_000
    assert most <= MOST_RECORDS + 60_000
    collector.close()


def test_only_its_own_exporter_is_heard() -> None:
    """Earlier datagrams of strangers are counted; later ones are refused by the kernel."""
    collector = CollectorSocket("127.0.0.1", 0, 32473)
    kinds = socket.AF_INET, socket.SOCK_DGRAM
    with socket.socket(*kinds) as exporter, socket.socket(*kinds) as stranger:
        exporter.connect(collector.address)
        stranger.connect(collector.address)
        stranger.send(FLOW)
        exporter.send(FLOW)
        stranger.send(FLOW)
        collector.hear_only(exporter.getsockname())
        assert len(collector.receive().flows) == 1
        assert collector.refused == collector.losses()["datagrams of strangers refused"] == 2
        stranger.send(FLOW)
        with pytest.raises(ConnectionRefusedError):
            stranger.send(FLOW)
        exporter.send(FLOW)
        assert len(collector.receive().flows) == 1
        assert collector.refused == 2
    with socket.socket(*kinds) as successor:
        successor.bind(("127.0.0.1", 0))
        collector.hear_only(successor.getsockname())
        successor.sendto(FLOW, collector.address)
        assert len(collector.receive().flows) == 1
    collector.close()


def test_what_finds_no_room_is_counted() -> None:
    collector = CollectorSocket("127.0.0.1", 0, 32473)
    collector._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
        exporter.connect(collector.address)
        for _ in range(50):
            exporter.send(message((2, template(256, (1, 4))), (256, bytes(1000))))
    came = len(collector.receive().flows) // 250
    collector.close()
    assert 0 < came < 50
    assert f", {50 - came} datagrams that found no room" in collector.summary()


def test_small_messages_come_together() -> None:
    collector = CollectorSocket("127.0.0.1", 0, 32473)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
        exporter.connect(collector.address)
        exporter.send(message((2, template(256, (4, 1)))))
        for sequence in range(100):
            exporter.send(message((256, bytes(1)), sequence=sequence))
        assert len(collector.receive().flows) == 100
    collector.close()


def test_octets_at_a_time() -> None:
    """Reads are bounded by octets, too. 200 records of 15 000 fields each once took 250 MB."""
    collector = CollectorSocket("127.0.0.1", 0, 32473)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
        exporter.connect(collector.address)
        exporter.send(message((2, template(256, *[(82, 65535)] * 15_000))))
        most = total = 0
        for sequence in range(60):
            exporter.send(message((256, b"\1a" * 15_000), sequence=sequence))
            while sequence % 30 == 29 and select.select([collector], [], [], 0)[0]:
                count = len(collector.receive().flows)
                most, total = max(most, count), total + count
    assert total == 60
    assert most <= MOST_OCTETS // 30_000 + 1
    collector.close()
