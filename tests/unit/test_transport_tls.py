"""Tests the TLS sender against real TLS on loopback: who is trusted, and what is reported."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from probe.errors import ConfigError
from probe.export.transports.tls import TlsSender
from probe.run.destinations import parse_destination
from tests.support.certificates import Authority, server_context
from tests.support.transport import TEMPLATES, Collector, collecting, drive, numbers, train


class Realm:
    """One authority that both sides trust, with a certificate for each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        self.collector = self.authority.issue("collector")
        self.probe = self.authority.issue("probe")

    def context(self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        return server_context(self.authority.path, *self.collector, version)

    def url(self, port: int, **changes: object) -> str:
        options = {"ca": self.authority.path, "cert": self.probe[0], "key": self.probe[1]}
        texts = [f"{key}={quote(str(value))}" for key, value in {**options, **changes}.items()]
        return f"ipfix+tls://127.0.0.1:{port}?{'&'.join(texts)}"

    def sender(self, port: int, **changes: object) -> TlsSender:
        return TlsSender(parse_destination(self.url(port, **changes)))


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Realm:
    return Realm(tmp_path_factory.mktemp("realm"))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_messages_arrive_encrypted(realm: Realm, version: ssl.TLSVersion) -> None:
    with collecting(context=realm.context(version)) as collector:
        sender = TlsSender(parse_destination(realm.url(collector.port)))
        assert isinstance(sender, TlsSender)
        sender.enqueue([train(0, 300, 1400), train(300, 1, 50), train(301, 20, 16384)])
        drive(sender, lambda: sender.statistics.sent_messages == 322)
        sender.close()
        collector.wait(lambda: collector.ended == 1)
        assert numbers(collector.connections[0]) == [TEMPLATES, *range(321)]
        assert collector.errors == [], "the session was ended properly"
        statistics = sender.statistics
        assert statistics.sent_octets == len(collector.connections[0])
        assert (statistics.dropped_messages, statistics.errors) == (0, 0)


def test_the_end_delivers_what_tls_still_holds(realm: Realm) -> None:
    with collecting(context=realm.context()) as collector:
        sender = realm.sender(collector.port)
        sender.enqueue([train(0, 1)])
        drive(sender, lambda: sender.statistics.sent_messages == 2)
        sender.enqueue([train(1, 2000, 1400)])
        while sender.backlog:
            sender.pump(time.monotonic())
        sender.close()
        collector.wait(lambda: collector.ended == 1)
        assert collector.numbers == list(range(2001))
        assert sender.statistics.sent_messages == 2002


def refusal(
    realm: Realm, caplog: pytest.LogCaptureFixture, context: ssl.SSLContext, **changes: object
) -> str:
    """Returns the sender's report.

    The sender must keep its message, and the collector must get nothing.
    """
    caplog.set_level(logging.INFO)
    with collecting(context=context) as collector:
        sender = realm.sender(collector.port, **changes)
        sender.enqueue([train(7, 1)])
        drive(sender, lambda: sender.statistics.errors == 2)
        assert sender.is_down
        assert sender.backlog == 100
        assert sender.statistics.bursts == 1
        assert sender.statistics.sent_messages == 0
        collector.wait(lambda: len(collector.errors) + len(collector.connections) >= 2)
        assert set(collector.connections) <= {b""}
        sender.close()
        assert sender.statistics.dropped_messages == 1
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1, "one warning for all attempts"
    return warnings[0].getMessage()


def test_a_collector_of_another_authority(
    realm: Realm, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    said = refusal(realm, caplog, realm.context(), ca=stranger.path)
    assert "the collector's certificate is refused: " in said
    assert "self-signed certificate in certificate chain" in said


def test_without_a_ca_the_system_judges(realm: Realm, caplog: pytest.LogCaptureFixture) -> None:
    url = realm.url(1)
    without = "&".join(part for part in url.partition("?")[2].split("&") if part[:3] != "ca=")
    with collecting(context=realm.context()) as collector:
        sender = TlsSender(parse_destination(f"ipfix+tls://127.0.0.1:{collector.port}?{without}"))
        drive(sender, lambda: sender.statistics.errors)
        assert "the collector's certificate is refused" in caplog.text
        sender.close()


def test_a_collector_with_another_name(realm: Realm, caplog: pytest.LogCaptureFixture) -> None:
    said = refusal(realm, caplog, realm.context(), name="other.example")
    assert "Hostname mismatch, certificate is not valid for 'other.example'" in said


def test_a_name_instead_of_the_host(realm: Realm) -> None:
    certificate = realm.authority.issue("elsewhere", address="192.0.2.1")
    with collecting(context=server_context(realm.authority.path, *certificate)) as collector:
        sender = realm.sender(collector.port, name="elsewhere.example")
        drive(sender, lambda: sender.statistics.sent_messages == 1)
        sender.close()


def test_a_collector_that_has_expired(realm: Realm, caplog: pytest.LogCaptureFixture) -> None:
    old = realm.authority.issue("old", days=-1)
    said = refusal(realm, caplog, server_context(realm.authority.path, *old))
    assert "certificate has expired" in said


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_collector_that_does_not_know_us(
    realm: Realm, caplog: pytest.LogCaptureFixture, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    cert, key = Authority(tmp_path, "stranger").issue("unknown")
    said = refusal(realm, caplog, realm.context(version), cert=cert, key=key)
    assert said.endswith("the collector refuses our certificate: unknown ca; trying again")


def test_we_have_expired(realm: Realm, caplog: pytest.LogCaptureFixture) -> None:
    cert, key = realm.authority.issue("former", days=-1)
    said = refusal(realm, caplog, realm.context(), cert=cert, key=key)
    assert said.endswith("the collector refuses our certificate: certificate expired; trying again")


def test_a_collector_without_tls(realm: Realm, caplog: pytest.LogCaptureFixture) -> None:
    """The collector must see a handshake and none of our records."""
    with collecting() as collector:
        sender = realm.sender(collector.port)
        sender.enqueue([train(0, 1, 1000)])
        collector.wait(lambda: sender.pump(time.monotonic()) and collector.received())
        assert collector.connections[0][:2] == b"\x16\x03", "a ClientHello"
        assert bytes(train(0, 1, 1000).octets[:16]) not in collector.connections[0]
        collector.say(b"what?\r\n")
        drive(sender, lambda: sender.statistics.errors)
        assert "TLS: wrong version number" in caplog.text
        sender.close()


def test_a_collector_that_hangs_up_at_once(realm: Realm, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        sender = realm.sender(listener.getsockname()[1])
        listener.accept()[0].close()
        drive(sender, lambda: sender.statistics.errors)
        assert "during the TLS handshake" in caplog.text or "reset by peer" in caplog.text
        sender.close()


def test_a_handshake_that_never_ends_is_given_up(
    realm: Realm, caplog: pytest.LogCaptureFixture
) -> None:
    with collecting() as collector:
        sender = realm.sender(collector.port)
        collector.wait(lambda: sender.pump(time.monotonic()) and collector.received())
        sender.pump(time.monotonic() + 11)
        assert sender.is_down
        assert "no answer within 10 s" in caplog.text
        sender.close()


def test_a_collector_without_session_tickets_gets_its_messages(realm: Realm) -> None:
    context = realm.context()
    context.num_tickets = 0
    with collecting(context=context) as collector:
        sender = realm.sender(collector.port)
        sender.enqueue([train(0, 1)])
        drive(sender, lambda: sender.statistics.sent_messages == 2)
        sender.close()


def test_a_restart_of_the_collector_with_a_renewed_certificate_of_ours(tmp_path: Path) -> None:
    realm = Realm(tmp_path)
    first = Collector(context=realm.context())
    sender = realm.sender(first.port)
    drive(sender, lambda: first.received() == 60)
    first.stop()
    drive(sender, lambda: sender.is_down)
    sender.enqueue([train(0, 100)])
    realm.authority.issue("probe")
    with collecting(address=first.address, context=realm.context()) as second:
        drive(sender, lambda: second.received() == 10_060)
        assert numbers(second.connections[0]) == [TEMPLATES, *range(100)]
        sender.close()
    assert sender.statistics.dropped_messages == 0


def test_certificates_that_cannot_be_read_anew_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    realm = Realm(tmp_path)
    with collecting(context=realm.context()) as collector:
        sender = realm.sender(collector.port)
        drive(sender, lambda: sender.statistics.sent_messages == 1)
        realm.probe[1].unlink()
        collector.hang_up()
        drive(sender, lambda: sender.statistics.errors == 2)
        assert sender.is_down
        assert sender.statistics.bursts == 1
        assert f"key {realm.probe[1]}: No such file" in caplog.messages[-1]
        sender.close()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("ca", "ca /nowhere: No such file"),
        ("cert", "cert /nowhere: No such file"),
        ("key", "key /nowhere: No such file"),
    ],
)
def test_missing_files(realm: Realm, option: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        realm.sender(1, **{option: "/nowhere"})


def test_files_that_do_not_belong_together(realm: Realm, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    _, encrypted = Authority(tmp_path).issue("secret", password=b"sesame")
    cases = [
        ({"key": realm.collector[1]}, "is not the key of the certificate"),
        ({"cert": empty}, "no certificate and private key in PEM"),
        ({"ca": empty}, "holds no certificate in PEM"),
        ({"ca": tmp_path}, "Is a directory"),
        ({"key": encrypted}, "is encrypted: give one without a passphrase"),
    ]
    for changes, said in cases:
        with pytest.raises(ConfigError, match=said):
            realm.sender(1, **changes)
