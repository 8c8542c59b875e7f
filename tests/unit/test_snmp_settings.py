"""Tests who may ask the agent, and where it listens, from flag and file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from probe.config import build
from probe.errors import ConfigError
from probe.snmp.settings import SnmpSettings, check_snmp, complete, from_json

ALICE = {"name": "alice", "auth": "sha256", "auth-key": "authpass12", "priv": "aes",
         "priv-key": "privpass12"}  # fmt: skip


@pytest.mark.parametrize(
    ("where", "host", "port"),
    [
        ("127.0.0.1:1161", "127.0.0.1", 1161),
        ("192.0.2.1", "192.0.2.1", 161),
        ("[::1]:1161", "::1", 1161),
        ("[2001:db8::1]", "2001:db8::1", 161),
    ],
)
def test_addresses(where: str, host: str, port: int) -> None:
    found = check_snmp(where)
    assert (found.host, found.port) == (host, port)


@pytest.mark.parametrize(
    "where", ["", "localhost:161", "::1", "1.2.3.4:0", "1.2.3.4:70000", ":161"]
)
def test_no_addresses(where: str) -> None:
    with pytest.raises(ConfigError, match="snmp"):
        check_snmp(where)


def test_only_this_host_may_ask_unless_the_file_says_who() -> None:
    assert complete(check_snmp("127.0.0.1:1161")).communities == ("public",)
    assert complete(check_snmp("[::1]:1161")).communities == ("public",)
    with pytest.raises(ConfigError, match="communities"):
        complete(check_snmp("0.0.0.0:1161"))
    with_user = check_snmp({"listen": "0.0.0.0:1161", "users": [ALICE]})
    assert complete(with_user).communities == ()


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (7, "HOST:PORT or a table"),
        ({"port": 1}, "unknown setting snmp.port"),
        ({"communities": "public"}, "must be a list"),
        ({"communities": [""]}, "must not be empty"),
        ({"contact": 7}, "must be text"),
        ({"users": [{}]}, "needs a name"),
        ({"users": [{**ALICE, "auth": "rot13"}]}, "auth must be one of md5"),
        ({"users": [{**ALICE, "priv": "xor"}]}, "priv must be one of des"),
        ({"users": [{**ALICE, "auth-key": "short"}]}, "less than 8"),
        ({"users": [{**ALICE, "auth": ""}]}, "belong together"),
        ({"users": [{"name": "x", "priv": "aes", "priv-key": "privpass12"}]}, "priv needs auth"),
        ({"users": [ALICE, ALICE]}, "same name"),
        ({"users": [{**ALICE, "key": "x"}]}, "unknown setting snmp.users.key"),
    ],
)
def test_what_cannot_be_used(table: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_snmp(table)


def test_the_flag_says_where_and_the_file_who(tmp_path: Path) -> None:
    file = tmp_path / "sockflow.toml"
    file.write_text('[snmp]\nlisten = "127.0.0.1:161"\ncommunities = ["a"]\ninterfaces = "veth"\n')
    in_file = build({}, str(file)).snmp
    assert in_file == SnmpSettings("127.0.0.1", 161, ("a",), (), ("veth",))
    moved = build({"snmp": "[::1]:1161"}, str(file)).snmp
    assert moved == SnmpSettings("::1", 1161, ("a",), (), ("veth",))
    file.write_text('[snmp]\ncommunities = ["a"]\n')
    assert build({}, str(file)).snmp is None  # no address is given
    assert build({}).snmp is None


def test_the_way_to_the_process_and_back() -> None:
    settings = check_snmp({"listen": "[::1]:1161", "users": [ALICE], "interfaces": ["a*", "b"],
                           "communities": ["x"], "contact": "me", "location": "here"})  # fmt: skip
    assert from_json(settings.as_json()) == settings
