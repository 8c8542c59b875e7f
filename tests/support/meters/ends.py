"""Connections of actors, and what tests of both ends ask of the records."""

from __future__ import annotations

import ipaddress

import numpy as np

from probe.flow.rows import Rows
from tests.support.lab.hosts import Counted
from tests.support.meters.actors import BACK, FORWARD, Actor, MeteringProcess

REMOTE, LOCAL = 0, 1  # flow_direction by where the sender is


def listen(server: Actor, address: str, port: int = 0) -> int:
    """The port."""
    six = ":" in address
    found: int = server.do(
        f"l = socket.create_server(({address!r}, {port}), backlog=64, "
        f"family=socket.{'AF_INET6' if six else 'AF_INET'})\nresult = l.getsockname()[1]"
    )
    return found


def connect(client: Actor, server: Actor, address: str, port: int, source: int = 0) -> None:
    bound = f", source_address=('', {source})" if source else ""
    client.do(f"s = socket.create_connection(({address!r}, {port}), 5{bound})")
    server.do("c, _ = l.accept()")


def exchange(client: Actor, server: Actor, there: int, back: int) -> None:
    """Sends octets to and fro, and reads them."""
    for sender, name, receiver, other, octets in (
        (client, "s", server, "c", there), (server, "c", client, "s", back),
    ):  # fmt: skip
        sender.do(f"{name}.sendall(b'x' * {octets})")
        receiver.do(f"left = {octets}\nwhile left: left -= len({other}.recv(left))")


def close(client: Actor, server: Actor) -> None:
    client.do("s.close()")
    server.do("c.recv(1); c.close()")


def udp_socket(actor: Actor, port: int, address: str = "", name: str = "u") -> None:
    actor.do(
        f"{name} = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"{name}.settimeout(120); {name}.bind(({address!r}, {port}))"
    )


def of_port(process: MeteringProcess, port: int) -> Rows:
    """Records of the tests' own namespace."""
    records = process.records
    wanted = (records["source_port"] == port) | (records["destination_port"] == port)
    netns = process.collector.host_netns
    found: Rows = records[
        wanted & ((records["source_netns"] == netns) | (records["destination_netns"] == netns))
    ]
    return found


def by_source_pid(process: MeteringProcess, records: Rows) -> dict[int | None, np.void]:
    found = {process.pids(record)[0]: record for record in records}
    assert len(found) == len(records)
    return found


def counted(records: Rows) -> Counted:
    return Counted(int(records["packets"].sum()), int(records["octets"].sum()))


def sent_by(process: MeteringProcess, records: Rows, pid: int) -> Rows:
    pids = [process.pids(record)[0] for record in records]
    found: Rows = records[np.array([one == pid for one in pids], bool)]
    return found


def address_of(record: np.void, side: str) -> str:
    octets = bytes(record[f"{side}_address"])
    return str(ipaddress.ip_address(octets[: 4 if record["ip_version"] == 4 else 16]))


def assert_within(measured: Counted, truth: Counted, share: float) -> None:
    assert truth.packets
    assert abs(measured.packets - truth.packets) <= share * truth.packets, (measured, truth)
    assert abs(measured.octets - truth.octets) <= share * truth.octets, (measured, truth)


def assert_one_connection(
    process: MeteringProcess, records: Rows, client: Actor, server: Actor
) -> tuple[np.void, np.void]:
    """Exactly one record each way, with both owners on both; (there, back)."""
    assert len(records) == 2
    found = by_source_pid(process, records)
    there, back = found[client.pid], found[server.pid]
    assert process.pids(there) == (client.pid, server.pid)
    assert process.pids(back) == (server.pid, client.pid)
    assert (there["biflow_direction"], back["biflow_direction"]) == (FORWARD, BACK)
    assert there["flow_direction"] == back["flow_direction"] == LOCAL
    assert there["flow_id"] == back["flow_id"]
    return there, back
