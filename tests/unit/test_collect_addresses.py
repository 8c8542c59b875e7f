"""Tests which addresses ``sockflow collect --listen`` accepts."""

from __future__ import annotations

import pytest

from probe.collector.address import Listen, parse_listen
from probe.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:4739", Listen("ipfix", "127.0.0.1", 4739)),
        ("[::1]:0", Listen("ipfix", "::1", 0)),
        ("host:1", Listen("ipfix", "host", 1)),
        ("ipfix://host:1", Listen("ipfix", "host", 1)),
        ("netflow9://host:1", Listen("netflow9", "host", 1)),
        ("ipfix+tcp://[::]:4739", Listen("ipfix+tcp", "::", 4739)),
        (
            "ipfix+tls://host:4740?cert=/a/c.pem&key=k.pem&ca=ca.pem",
            Listen("ipfix+tls", "host", 4740, "/a/c.pem", "k.pem", "ca.pem"),
        ),
        ("ipfix+tls://host:1?cert=both.pem", Listen("ipfix+tls", "host", 1, "both.pem")),
    ],
)
def test_addresses(text: str, expected: Listen) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", ":1", "h", "h:", "h:x", "h:70000", "u@h:1", "h:1/x", "[::1", "h:1?cert=a", "h:1#x",
     "http://h:1", "ipfix+tcp://h", "ipfix+tcp://h:1?cert=a", "ipfix+tls://h:1",
     "ipfix+tls://h:1?key=a", "ipfix+tls://h:1?cert=", "ipfix+tls://h:1?cert=a&name=b"],
)  # fmt: skip
def test_nonsense(text: str) -> None:
    with pytest.raises(ConfigError, match="--listen"):
        parse_listen(text)
