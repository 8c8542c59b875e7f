"""Tests destinations as the user writes them."""

from __future__ import annotations

import pytest

from probe.errors import ConfigError
from probe.run.destinations import parse_destination


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("ipfix://127.0.0.1:2055", "127.0.0.1", 2055, "ipfix://127.0.0.1:2055"),
        ("ipfix://collector.example", "collector.example", 4739, "ipfix://collector.example:4739"),
        ("ipfix://[2001:db8::1]:99/", "2001:db8::1", 99, "ipfix://[2001:db8::1]:99"),
        ("netflow9://h", "h", 2055, "netflow9://h:2055"),
        ("ipfix+tcp://[::1]", "::1", 4739, "ipfix+tcp://[::1]:4739"),
        ("ipfix+tls://h?cert=/c&key=/k", "h", 4740, "ipfix+tls://h:4740"),
        ("file:///var/log/x.ipfix", "", 0, "file:///var/log/x.ipfix"),
    ],
)
def test_destinations(text: str, host: str, port: int, shown: str) -> None:
    destination = parse_destination(text)
    assert (destination.host, destination.port, str(destination)) == (host, port, shown)


def test_options_of_datagrams() -> None:
    destination = parse_destination(
        "ipfix://h:1?max_message=1232&pace=0&biflow=rfc5103&share=hash&profile=nfdump"
    )
    assert (destination.max_message, destination.pace) == (1232, 0)
    assert (destination.biflow, destination.share, destination.profile) == (True, "hash", "nfdump")
    plain = parse_destination("netflow9://h")
    assert (plain.max_message, plain.pace) == (1400, 16_000_000)
    assert plain.segmentation is None
    assert parse_destination("netflow9://h:1?segmentation=on").segmentation is True
    assert (plain.biflow, plain.share, plain.profile) == (False, None, None)


def test_options_of_streams() -> None:
    destination = parse_destination(
        "ipfix+tls://h?ca=/etc/ca+all.pem&cert=/c%20d.pem&key=k&name=flows.example"
    )
    assert destination.max_message == 16384
    assert (destination.ca, destination.cert) == ("/etc/ca+all.pem", "/c d.pem")
    assert (destination.key, destination.name) == ("k", "flows.example")
    assert parse_destination("ipfix+tcp://h?max_message=65535").max_message == 65535


def test_paths_of_files() -> None:
    assert parse_destination("file:///a%20b%23c.ipfix?share=round-robin").path == "/a b#c.ipfix"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "known schemes: ipfix, netflow9, ipfix.tcp, ipfix.tls, file, json, kafka, zmq"),
        ("127.0.0.1:4739", "known schemes"),
        ("http://h:1", "known schemes"),
        ("udp://h:1", "known schemes"),
        ("ipfix:", "expected ipfix://HOST:PORT"),
        ("ipfix://", "expected ipfix://HOST:PORT"),
        ("ipfix://:4739", "expected ipfix://HOST:PORT"),
        ("ipfix+tcp://:4739", "expected ipfix.tcp://HOST:PORT"),
        ("ipfix://h:0", "expected"),
        ("ipfix://h:65536", "Port out of range"),
        ("ipfix://h:port", "expected"),
        ("ipfix://2001:db8::1", "brackets"),
        ("ipfix://[2001:db8::1", "brackets"),
        ("ipfix://user@h:1", "expected"),
        ("ipfix://h:1/path", "expected"),
        ("ipfix://h:1#part", "expected"),
        ("ipfix://a b:1", "expected"),
        ("ipfix://h:1?colour=red", "unknown option colour; known: biflow, max_message, pace"),
        ("ipfix://h:1?pace=fast", "pace must be 0 to"),
        ("ipfix://h:1?pace=", "pace must be"),
        ("ipfix://h:1?pace=1&pace=2", "pace is given twice"),
        ("ipfix://h:1?max_message=100", "max_message must be 512 to 65507"),
        ("ipfix+tcp://h:1?max_message=65536", "max_message must be 512 to 65535"),
        ("ipfix+tcp://h:1?pace=1", "unknown option pace; known: .*; pace is for ipfix, netflow9"),
        ("file:///a?segmentation=on", "segmentation is for ipfix, netflow9"),
        ("ipfix://h:1?segmentation=yes", "segmentation must be on or off"),
        ("netflow9://h?biflow=rfc5103", "NetFlow v9 has no reverse elements"),
        ("ipfix://h?biflow=yes", "biflow must be rfc5103"),
        ("ipfix://h?share=dice", "share must be hash or round-robin"),
        ("ipfix://h?profile=", "profile is empty"),
        ("ipfix+tcp://h?ca=/x", "ca is for ipfix.tls"),
        ("ipfix+tls://h", "cert=FILE and key=FILE must be given: both sides show"),
        ("ipfix+tls://h?cert=/c", "key=FILE must be given"),
        ("file://flows.ipfix", "expected file:///PATH"),
        ("file://host/flows.ipfix", "expected file:///PATH"),
        ("file:///", "expected file:///PATH"),
        ("file:///dir/", "expected file:///PATH"),
        ("file:///a#b", "write # as %23"),
        ("file:///a?pace=1", "pace is for ipfix, netflow9"),
    ],
)
def test_nonsense_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"destination .*{said}") as refused:
        parse_destination(text)
    assert "\n" not in str(refused.value)
