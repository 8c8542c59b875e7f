"""Tests exporters that connect over TCP and TLS on loopback: whole, slow, broken and unwanted."""

from __future__ import annotations

import datetime
import logging
import os
import resource
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from probe.collector import admission, connections
from probe.collector.address import Listen
from probe.collector.connections import CollectorConnections
from probe.collector.message_source import MOST_OCTETS, MOST_RECORDS, collecting_process
from probe.errors import ConfigError
from probe.ipfix.decode import Record
from tests.support.ipfix.messages import message, template

KNOWN = message((2, template(256, (1, 8))))
PATIENCE_S = 5.0


def data(*counts: int, sequence: int = 0) -> bytes:
    return message((256, struct.pack(f"!{len(counts)}Q", *counts)), sequence=sequence)


class Collector(CollectorConnections):
    """A collector that remembers all records that it received."""

    def __init__(self, listen: Listen) -> None:
        self.process = collecting_process(32473)
        super().__init__(listen, self.process)
        self.flows: list[Record] = []

    def read_until(self, true: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < end, (self.losses(), self.process.statistics, self.flows)
            if select.select([self], [], [], 0.01)[0]:
                self.flows += self.receive().flows

    def octets(self) -> list[object]:
        return [record["octetDeltaCount"] for record in self.flows]

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=PATIENCE_S)


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector(Listen("ipfix+tcp", "127.0.0.1", 0))
    yield found
    found.close()


def test_messages_in_pieces(collector: Collector) -> None:
    octets = KNOWN + data(1, 2) + data(3, sequence=2)
    with collector.connect() as exporter:
        exporter.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(octets), 5):
            exporter.send(octets[at : at + 5])
            collector.flows += collector.receive().flows
        collector.read_until(lambda: len(collector.flows) == 3)
    collector.read_until(lambda: not collector._connections)
    assert collector.octets() == [1, 2, 3]
    assert collector.process.statistics.lost_records == 0
    assert not any(collector.losses().values())


def test_connections_have_their_own_templates(collector: Collector) -> None:
    with collector.connect() as first, collector.connect() as second:
        first.sendall(KNOWN + data(1))
        collector.read_until(lambda: collector.octets() == [1])
        second.sendall(data(2))
        collector.read_until(lambda: collector.process.statistics.unknown_sets == 1)
        first.sendall(message((2, template(2))) + data(3))
        collector.read_until(lambda: collector.process.statistics.unknown_sets == 2)
    collector.read_until(lambda: not collector._connections)
    assert collector.octets() == [1]
    assert not collector.process._domains


def test_many_at_once(collector: Collector) -> None:
    exporters = [collector.connect() for _ in range(100)]
    for number, exporter in enumerate(exporters):
        exporter.sendall(KNOWN + data(number))
    collector.read_until(lambda: len(collector.flows) == 100)
    for exporter in exporters:
        exporter.close()
    collector.read_until(lambda: not collector._connections)
    assert sorted(map(str, collector.octets())) == sorted(map(str, range(100)))


def test_a_flood_starves_nobody_and_is_read_in_turns(collector: Collector) -> None:
    flood = message((2, template(256, (210, 8000)))) + message((256, bytes(56000))) * 200
    with collector.connect() as loud, collector.connect() as quiet:
        loud.setblocking(False)
        quiet.sendall(KNOWN + data(7))
        sent = loud.send(flood)
        largest = 0
        for _ in range(2000):
            if sent < len(flood) and select.select([], [loud], [], 0)[1]:
                sent += loud.send(flood[sent:])
            fresh = collector.receive().flows
            largest = max(largest, len(fresh))
            collector.flows += fresh
            if len(collector.flows) == 1401:
                break
    assert len(collector.flows) == 1401
    assert largest * 8000 < MOST_OCTETS + 4 * 65536 + 65536
    assert {"octetDeltaCount": 7} in collector.flows


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", struct.pack("!HH", 9, 30) + bytes(40), message()[:2] + b"\0\x0f",
     message((4, b"")) * 5],
)  # fmt: skip
def test_a_broken_stream_ends_alone(
    collector: Collector, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with collector.connect() as good, collector.connect() as bad:
        good.sendall(KNOWN + data(1))
        with caplog.at_level(logging.WARNING, "probe"):
            bad.sendall(KNOWN + data(2) + garbage)
            collector.read_until(lambda: collector.broken)
        assert bad.recv(1) == b"", "it is closed"
        good.sendall(data(3, sequence=1))
        collector.read_until(lambda: len(collector.flows) == 3)
    assert sorted(map(str, collector.octets())) == ["1", "2", "3"]
    assert "stream given up" in caplog.text


def test_single_malformed_messages_are_survived(collector: Collector) -> None:
    broken = message((4, b""))
    with collector.connect() as exporter:
        exporter.sendall(KNOWN + (broken * 4 + data(1)) * 3)
        collector.read_until(lambda: len(collector.flows) == 3)
    assert (collector.process.statistics.errors, collector.broken) == (12, 0)


def test_an_end_within_a_message_is_counted(collector: Collector) -> None:
    with collector.connect() as exporter:
        exporter.sendall(KNOWN + data(1)[:-3])
    collector.read_until(lambda: collector.broken)
    assert not collector._connections


def test_too_many_are_refused(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """New connections are refused while the present ones have all sent something."""
    monkeypatch.setattr(admission, "MAX_CONNECTIONS", 3)
    exporters = [collector.connect() for _ in range(3)]
    for exporter in exporters:
        exporter.sendall(KNOWN + data(1))
    collector.read_until(lambda: len(collector.flows) == 3)
    exporters += [collector.connect() for _ in range(2)]
    collector.read_until(lambda: collector.refused == 2)
    assert collector.losses()["connections refused"] == 2
    collector.flows.clear()
    for exporter in exporters:
        exporter.close()
    collector.read_until(lambda: not collector._connections)
    with collector.connect() as late:
        late.sendall(KNOWN + data(1))
        collector.read_until(lambda: collector.flows)


@pytest.mark.parametrize("bound", ["MAX_CONNECTIONS", "MAX_PER_HOST"])
def test_who_says_nothing_makes_room(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, bound: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(admission, bound, 3)
    idle = []
    for number in range(3):
        idle.append(collector.connect())
        collector.read_until(partial(lambda n: len(collector._connections) == n, number + 1))
    with collector.connect() as exporter:
        exporter.sendall(KNOWN + data(7))
        collector.read_until(lambda: collector.flows)
    assert (collector.octets(), collector.refused, collector.displaced) == ([7], 0, 1)
    assert idle[0].recv(1) == b"", "the oldest"
    assert "closed for one of 127.0.0.1, since 3 are open" in caplog.text
    for one in idle:
        one.close()


def test_silent_connections_are_closed(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with collector.connect() as good, collector.connect() as drip, collector.connect() as idle:
        good.sendall(KNOWN + data(1))
        drip.sendall(KNOWN[:-1])
        collector.read_until(lambda: collector.flows and len(collector._connections) == 3)
        monkeypatch.setattr(connections, "FIRST_MESSAGE_S", 0.0)
        collector.receive()
        assert (drip.recv(1), idle.recv(1)) == (b"", b"")
        good.sendall(data(2, sequence=1))
        collector.read_until(lambda: len(collector.flows) == 2)
    assert collector.losses()["silent connections closed"] == 2
    assert caplog.text.count("closed, no message in") == 1


def test_without_a_descriptor_for_a_newcomer(collector: Collector) -> None:
    """A connection is refused if no descriptor is left.

    It does not wake the collector again and again.
    """
    newcomer = socket.socket()
    newcomer.settimeout(PATIENCE_S)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    collector.receive()
    newcomer.connect(collector.address)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
    holes: list[int] = []
    try:
        while True:
            holes.append(os.dup(0))
    except OSError:
        pass
    try:
        collector.receive()
    finally:
        for hole in holes:
            os.close(hole)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert collector.refused == 1
    assert newcomer.recv(1) == b""
    assert not select.select([collector], [], [], 0)[0]
    newcomer.close()
    with collector.connect() as late:
        late.sendall(KNOWN + data(1))
        collector.read_until(lambda: collector.flows)


def test_whose_place_it_is() -> None:
    def connection(host: str, heard_s: float, is_proven: bool) -> Any:
        return SimpleNamespace(peer=(host, 1, 1), heard_s=heard_s, is_proven=is_proven)

    silent = [connection("flood", 5, False), connection("flood", 3, False),
              connection("other", 1, False)]  # fmt: skip
    proven = [connection("good", 0, True), connection("greedy", 4, True),
              connection("greedy", 2, True), connection("greedy", 6, True)]  # fmt: skip
    assert admission.find_victim(silent + proven, "new") is silent[1]
    assert admission.find_victim(proven, "new") is proven[2]
    assert admission.find_victim(proven, "greedy") is None
    assert admission.find_victim(proven[:1], "new") is None


def test_records_come_in_pieces(collector: Collector) -> None:
    """The collector reads a bounded number of records at a time.

    A message of 65 000 records of one octet takes twenty megabytes once it is read.
    """
    known = message((2, template(256, (4, 1))))
    one = message((256, bytes(65_000)))
    most = total = 0
    with collector.connect() as exporter:
        sender = threading.Thread(target=exporter.sendall, args=(known + one * 40,))
        sender.start()
        end = time.monotonic() + 60
        while total < 40 * 65_000 and time.monotonic() < end:
            if select.select([collector], [], [], 0.01)[0]:
                count = len(collector.receive().flows)
                most, total = max(most, count), total + count
        sender.join()
    assert total == 40 * 65_000
    assert most <= MOST_RECORDS + 3 * 65_536


class Authority:
    """An authority for 127.0.0.1; ``write`` writes a file with certificate and key."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = (
            folder,
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        )
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(self._name, self._key, is_ca=True)
        self.file = folder / f"{name}.ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def write(self, name: str) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        path = self._folder / f"{name}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + self._sign(subject, key).public_bytes(serialization.Encoding.PEM)
        )
        return path

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, is_ca: bool = False
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder(
                self._name, subject, key.public_key(), x509.random_serial_number()
            )
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def secure(authority: Authority) -> Iterator[Collector]:
    certificate = str(authority.write("collector"))
    found = Collector(Listen("ipfix+tls", "127.0.0.1", 0, cert=certificate, ca=str(authority.file)))
    yield found
    found.close()


def shake_hands(collector: Collector, certificate: Path | None) -> ssl.SSLSocket:
    """Returns the client's TLS connection, in this thread, with its handshake done."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(certificate)
    client = context.wrap_socket(collector.connect(), do_handshake_on_connect=False)
    client.setblocking(False)

    def done() -> bool:
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    collector.read_until(done)
    client.settimeout(PATIENCE_S)
    return client


def test_records_over_tls(secure: Collector, authority: Authority) -> None:
    with shake_hands(secure, authority.write("exporter")) as exporter:
        exporter.sendall(KNOWN)
        exporter.sendall(b"".join(data(*range(20), sequence=20 * n) for n in range(500)))
        secure.read_until(lambda: len(secure.flows) == 10_000)
    secure.read_until(lambda: not secure._connections)
    assert secure.process.statistics.lost_records == 0
    assert not any(secure.losses().values())


@pytest.mark.parametrize("has_certificate", [False, True])
def test_exporters_without_our_certificate_stay_out(
    secure: Collector, tmp_path: Path, has_certificate: bool, caplog: pytest.LogCaptureFixture
) -> None:
    strange = Authority(tmp_path, "theirs").write("stranger") if has_certificate else None
    with shake_hands(secure, strange) as client, caplog.at_level(logging.WARNING, "probe"):
        client.sendall(KNOWN + data(1))
        secure.read_until(lambda: secure.failed_handshakes)
    assert secure.flows == []
    assert not secure._connections
    assert "no TLS connection" in caplog.text


def test_plain_tcp_where_tls_is_spoken(secure: Collector) -> None:
    with secure.connect() as client:
        client.sendall(KNOWN + data(1))
        secure.read_until(lambda: secure.failed_handshakes)
    assert secure.flows == []


def test_reset_before_it_is_accepted(secure: Collector) -> None:
    """A connection that is reset early does not end the collector.

    Python's ssl raises an error where it wraps such a connection.
    """
    with socket.create_connection(secure.address) as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    secure.read_until(lambda: secure.failed_handshakes)
    assert secure.failed_handshakes == 1


def test_a_handshake_that_never_ends(secure: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    with secure.connect():
        secure.read_until(lambda: secure._connections)
        monkeypatch.setattr(connections, "_HANDSHAKE_S", 0.0)
        secure.receive()
        assert (secure.failed_handshakes, len(secure._connections)) == (1, 0)


def test_files_that_are_no_certificates(authority: Authority, tmp_path: Path) -> None:
    good, nonsense = str(authority.write("collector")), tmp_path / "nonsense.pem"
    nonsense.write_text("no certificate")
    missing = str(tmp_path / "missing.pem")
    for cert, ca in ((missing, ""), (str(nonsense), ""), (good, missing), (good, str(nonsense))):
        with pytest.raises(ConfigError, match=r"missing\.pem|nonsense\.pem"):
            Collector(Listen("ipfix+tls", "127.0.0.1", 0, cert=cert, ca=ca))
