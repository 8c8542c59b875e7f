"""Tests destinations of JSON, Kafka and ZMQ as the user writes them."""

from __future__ import annotations

import pytest

from probe.errors import ConfigError
from probe.run.destinations import parse_destination


@pytest.mark.parametrize(
    ("text", "host", "port", "path", "shown"),
    [
        ("json:-", "", 0, "-", "json:-"),
        ("json:///var/a%20b.jsonl", "", 0, "/var/a b.jsonl", "json:///var/a b.jsonl"),
        ("kafka://h/flows", "h:9092", 0, "/flows", "kafka://h:9092/flows"),
        (
            "kafka://a:1,[2001:db8::1],b:3/x.y-z_1",
            "a:1,[2001:db8::1]:9092,b:3",
            0,
            "/x.y-z_1",
            "kafka://a:1,[2001:db8::1]:9092,b:3/x.y-z_1",
        ),
        ("zmq://127.0.0.1", "127.0.0.1", 5556, "", "zmq://127.0.0.1:5556"),
        ("zmq://*:99?bind=1", "*", 99, "", "zmq://*:99"),
        ("zmq://[::1]:99/", "::1", 99, "", "zmq://[::1]:99"),
        ("ipfix://h", "h", 4739, "", "ipfix://h:4739"),
    ],
)
def test_targets(text: str, host: str, port: int, path: str, shown: str) -> None:
    target = parse_destination(text)
    assert (target.host, target.port, target.path, str(target)) == (host, port, path, shown)


def test_options() -> None:
    assert parse_destination("json:-?format=ecs").options == {"format": "ecs"}
    kafka = parse_destination("kafka://h/t?security.protocol=SSL&ssl.ca.location=/a%20b&config=/k")
    assert kafka.options == {
        "security.protocol": "SSL", "ssl.ca.location": "/a b", "config": "/k"
    }  # fmt: skip
    zmq = parse_destination("zmq://h:1?curve=/etc/key&flows=json&bind=1")
    assert zmq.options == {"curve": "/etc/key", "flows": "json", "bind": "1"}
    assert not parse_destination("ipfix://h").options


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("json:", "expected json:- or json:///PATH"),
        ("json://host/path", "expected json:- or json:///PATH"),
        ("json:relative", "expected json:- or json:///PATH"),
        ("json:///dir/", "expected json:- or json:///PATH"),
        ("json:///a#b", "write # as %23"),
        ("json:-?format=xml", "format must be agent or ecs"),
        ("json:-?pace=1", "unknown option pace; known: format"),
        ("kafka://h", "expected kafka://BROKER"),
        ("kafka:h/t", "expected kafka://BROKER"),
        ("kafka:///t", "expected kafka://BROKER"),
        ("kafka://h,/t", "expected kafka://BROKER"),
        ("kafka://h/..", "expected kafka://BROKER"),
        ("kafka://h/a b", "expected kafka://BROKER"),
        ("kafka://h:port/t", "Port could not be cast"),
        ("kafka://user:word@h/t", "expected kafka://BROKER"),
        ("kafka://h/t?sasl.password=x", "unknown option sasl.password"),
        ("kafka://h/t?acks=1&acks=2", "acks is given twice"),
        ("kafka://h/t?acks=", "acks is empty"),
        ("zmq://", "expected zmq://HOST:PORT"),
        ("zmq:h:1", "expected zmq://HOST:PORT"),
        ("zmq://h:0", "expected zmq://HOST:PORT"),
        ("zmq://h:1/path", "expected zmq://HOST:PORT"),
        ("zmq://*:1", r"\* is for bind=1"),
        ("zmq://h?bind=yes", "bind must be 0 or 1"),
        ("zmq://h?flows=xml", "flows must be tlv or json"),
        ("http://h", "known schemes"),
    ],
)
def test_nonsense_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"destination .*{said}") as refused:
        parse_destination(text)
    assert "\n" not in str(refused.value)
