"""Tests time-outs and a restart of the probe, which end a record while its flow goes on."""

from __future__ import annotations

import numpy as np
import pytest

from probe.flow.codes import EndReason, OwnerSource
from tests.support.lab.hosts import Host
from tests.support.meters.actors import (
    FORWARD,
    TCP,
    UDP,
    Actor,
    actors,
    metering,
)
from tests.support.meters.ends import (
    assert_one_connection,
    by_source_pid,
    close,
    connect,
    exchange,
    listen,
    sent_by,
    udp_socket,
)


def test_active_timeout(pair: tuple[Host, Host]) -> None:
    """The parts of a long flow follow one another and add up."""
    with metering(active_s=1) as process, actors(*pair) as (client, server):
        connect(client, server, str(pair[1].four), listen(server, "0.0.0.0"))
        for _ in range(17):
            exchange(client, server, 1000, 10)
            process.tick_for(0.2)
        close(client, server)
        process.tick_for(0.3)
        records = process.of(pair, TCP)
        to = sent_by(process, records, client.pid)
        parts = len(to)
        assert parts >= 4
        assert to["end_reason"].tolist() == [
            *[EndReason.ACTIVE_TIMEOUT] * (parts - 1),
            EndReason.END_OF_FLOW,
        ]
        assert len(sent_by(process, records, server.pid)) == parts
        # each record's wall clock is that of its export
        assert (abs(to["first_ns"][1:] - to["last_ns"][:-1]) < 1_000_000).all()
        assert len(np.unique(records["flow_id"])) == 1
        assert 17_000 + 52 * 17 < to["octets"].sum() < 17_000 + 52 * 17 * 3


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_idle_timeout(pair: tuple[Host, Host], protocol: int) -> None:
    """Data after the silence makes a new record without the old totals."""
    with metering(idle_s=1) as process, actors(*pair) as (client, server):
        if protocol == TCP:
            connect(client, server, str(pair[1].four), listen(server, "0.0.0.0"))
        else:
            udp_socket(server, 7000, name="c")
            udp_socket(client, 0, name="s")
            client.do(f"s.connect(({str(pair[1].four)!r}, 7000)); s.send(b'x')")
            server.do("_, peer = c.recvfrom(9); c.connect(peer)")
        for octets in (1000, 3000):
            exchange(client, server, octets, 10) if protocol == TCP else datagrams(
                client, server, octets // 1000
            )
            process.tick_for(1.5)
        records = process.of(pair, protocol)
        assert set(records["end_reason"].tolist()) == {EndReason.IDLE_TIMEOUT}
        to = sent_by(process, records, client.pid)
        assert len(to) == 2
        first, second = to
        assert second["first_ns"] >= first["last_ns"]
        if protocol == TCP:
            assert 3000 < second["octets"] < 3400
        else:
            assert (first["packets"], second["packets"]) == (2, 3)
        assert len(records) == 4 if protocol == TCP else len(records) == 2
        assert {process.pids(record) for record in to} == {(client.pid, server.pid)}


def datagrams(client: Actor, server: Actor, count: int) -> None:
    for _ in range(count):
        client.do("s.send(b'x')")
        server.do("c.recv(9)")


def test_a_restart_does_not_export_old_totals_again(pair: tuple[Host, Host]) -> None:
    with actors(*pair) as (client, server):
        with metering() as process:
            connect(client, server, str(pair[1].four), listen(server, "0.0.0.0"))
            exchange(client, server, 100_000, 50_000)
            process.tick()
            process.flush()
            first = process.of(pair, TCP)
            assert set(first["end_reason"].tolist()) == {EndReason.FORCED_END}
            assert_one_connection(process, first, client, server)
            end = int(first["last_ns"].max())
        with metering() as process:
            exchange(client, server, 1000, 2000)
            process.tick()
            process.flush()
            records = process.of(pair, TCP)
            assert len(records) == 2
            found = by_source_pid(process, records)
            to, back = found[client.pid], found[server.pid]
            assert process.pids(to) == (client.pid, server.pid)
            assert 1000 < to["octets"] < 1500
            assert 2000 < back["octets"] < 2500
            assert to["first_ns"] >= end
            assert to["biflow_direction"] in (0, FORWARD)
            assert to["source_owner_source"] == OwnerSource.DESCRIPTOR
