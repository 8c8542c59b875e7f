"""Tests files that root writes to while others may put links and files in the same folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from probe.config import read_file
from probe.errors import ConfigError
from probe.export.transports.destination import Destination
from probe.export.transports.file import FileSender
from probe.export.transports.lines import LineWriter

Give = Callable[[Path], None]
_SOMEBODY = 4321


def open_lines(path: Path) -> None:
    LineWriter(Destination("json", "", 0, path=str(path))).close()


def open_messages(path: Path) -> None:
    FileSender(Destination("file", "", 0, path=str(path))).close()


BOTH = pytest.mark.parametrize("open_", [open_lines, open_messages])


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Give:
    """Gives a path to another user: by chown as root, else by pretending to be another user."""

    def give(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, _SOMEBODY, _SOMEBODY, follow_symlinks=False)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: _SOMEBODY)

    return give


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Returns a directory like /tmp."""
    found = tmp_path / "shared"
    found.mkdir()
    found.chmod(0o1777)
    return found


@BOTH
def test_a_link_of_somebody_else_is_not_followed(
    open_: Callable[[Path], None], shared: Path, tmp_path: Path, give_away: Give
) -> None:
    secret = tmp_path / "shadow"
    secret.write_text("root:x\n")
    link = shared / "flows"
    link.symlink_to(secret)
    give_away(link)
    with pytest.raises(ConfigError, match=f"{link} is a link of user"):
        open_(link)
    assert secret.read_text() == "root:x\n"


@BOTH
def test_nor_is_one_on_the_way(
    open_: Callable[[Path], None], shared: Path, tmp_path: Path, give_away: Give
) -> None:
    (tmp_path / "etc").mkdir()
    (shared / "logs").symlink_to(tmp_path / "etc")
    give_away(shared / "logs")
    with pytest.raises(ConfigError, match="is a link of user"):
        open_(shared / "logs" / "flows")
    assert not list((tmp_path / "etc").iterdir())


@BOTH
def test_a_file_of_somebody_else_is_not_written_to(
    open_: Callable[[Path], None], shared: Path, give_away: Give
) -> None:
    """Its owner may already have it open, and could read all names."""
    path = shared / "flows"
    path.touch()
    path.chmod(0o666)
    give_away(path)
    with pytest.raises(ConfigError, match=r"the file is user \d+'s; choose another"):
        open_(path)
    assert path.stat().st_size == 0


@BOTH
def test_nor_is_a_second_name_of_a_file(
    open_: Callable[[Path], None], shared: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").write_text("")
    (shared / "flows").hardlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match="the file has another name elsewhere"):
        open_(shared / "flows")


@BOTH
def test_what_is_ours_is_used_as_ever(
    open_: Callable[[Path], None], shared: Path, tmp_path: Path
) -> None:
    open_(shared / "flows")
    open_(shared / "flows")
    assert (shared / "flows").stat().st_mode & 0o777 == 0o640
    (tmp_path / "link").symlink_to(shared / "flows")
    open_(tmp_path / "link")
    open_(shared / ".." / "shared" / "flows")


def test_standard_output_has_a_path_too() -> None:
    """/dev/stdout is a link to a link that leads nowhere on disk."""
    reading, writing = os.pipe()
    try:
        open_lines(Path(f"/dev/fd/{writing}"))
    finally:
        os.close(reading)
        os.close(writing)


def test_a_configuration_with_secrets_that_everybody_reads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "sockflow.toml"
    path.write_text('[snmp]\nlisten = "127.0.0.1:1161"\ncommunities = ["secret"]\n')
    path.chmod(0o644)
    read_file(str(path))
    assert f"{path} holds communities or keys of SNMP and every user may read it" in caplog.text
    assert f"chmod o= {path}" in caplog.text
    assert '"secret"' not in caplog.text
    caplog.clear()
    path.chmod(0o640)
    read_file(str(path))
    assert not caplog.text
    path.write_text("active-timeout = 30\n")
    path.chmod(0o644)
    read_file(str(path))
    assert not caplog.text
