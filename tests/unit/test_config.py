"""Tests settings: their bounds, unknown keys, and which source of a setting wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe.config import LIVE_ACTIVE_TIMEOUT_S, SETTINGS, RunConfig, build
from probe.errors import ConfigError


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "sockflow.toml"
    path.write_text(text)
    return str(path)


def test_every_setting_is_a_field() -> None:
    assert set(SETTINGS) | {"privacy", "snmp"} == set(RunConfig.__dataclass_fields__)


def test_defaults() -> None:
    config = build({"destinations": ["ipfix://h:1"]})
    assert (config.active_timeout, config.idle_timeout, config.odid) == (60, 15, 1)
    assert config.privacy.command_lines is False
    assert config.privacy.users is True


def test_flows_shown_live_are_reported_often_unless_said_otherwise() -> None:
    assert build({}).active_timeout == LIVE_ACTIVE_TIMEOUT_S
    assert build({"active_timeout": 30}).active_timeout == 30


def test_file_and_flags(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        destinations = ["ipfix://a", "ipfix://b"]
        active-timeout = 30
        odid = 7
        include = ["port=53"]
        [privacy]
        users = false
        command-lines = true
        """,
    )
    config = build({"odid": 9, "verbose": 1}, path)
    assert config.destinations == ("ipfix://a", "ipfix://b")
    assert (config.active_timeout, config.odid, config.verbose) == (30.0, 9, 1)
    assert config.include == ("port=53",)
    assert (config.privacy.users, config.privacy.command_lines) == (False, True)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("aktive-timeout = 3", "unknown setting 'aktive-timeout'"),
        ("[privacy]\nuser = true", "unknown setting privacy.user"),
        ("[privacy]\nusers = 1", "privacy.users must be true or false"),
        ("privacy = true", "privacy must be a table"),
        ("odid = true", "odid must be a whole number"),
        ("odid = 4294967296", "odid must be at most 4294967295"),
        ("odid = -1", "odid must be at least 0"),
        ("interval = 'soon'", "interval must be a number"),
        ("interval = nan", "interval must be a finite number"),
        ("interval = 0", "interval must be at least 0.01"),
        ("collector = 'pcap'", "collector must be one of auto, ebpf, netlink, ebpf+netlink"),
        ("destinations = 'ipfix://h'", "destinations must be a list"),
        ("destinations = [1]", "destinations must be text"),
        ("max-flows = 1\nmax_flows = 2", "max_flows is set twice"),
        ("odid = ", "not valid TOML"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        build({}, path)
    assert complaint in str(error.value)
    assert path in str(error.value)


def test_missing_file() -> None:
    with pytest.raises(ConfigError, match="cannot read /nowhere/x: No such file"):
        build({}, "/nowhere/x")


def test_file_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "latin1.toml"
    path.write_bytes(b"template = '\xe9'")
    with pytest.raises(ConfigError, match="not valid TOML"):
        build({}, str(path))


def test_docker_is_a_switch_or_a_url(tmp_path: Path) -> None:
    assert build({}).docker == "auto"
    for text, wanted in (
        ("true", True), ("false", False), ("'auto'", "auto"),
        ("'unix:///run/docker.sock'", "unix:///run/docker.sock"), ("'tcp://h:1'", "tcp://h:1"),
    ):  # fmt: skip
        assert build({}, write(tmp_path, f"docker = {text}")).docker == wanted
    for text in ("1", "'yes'", "'/var/run/docker.sock'", "[]"):
        with pytest.raises(ConfigError, match="docker must be true, false, 'auto'"):
            build({}, write(tmp_path, f"docker = {text}"))
