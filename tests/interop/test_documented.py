"""Tests the commands of pages in docs/: they are run, and every collector shows the same flows.

In a block, a command that ends with & is a collector. Commands before ``sockflow run`` prepare, and
those after it show. All blocks share one run of the probe, with the destinations of all of them.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.interop.collectors import Nfacctd, Nfcapd
from tests.support.interop.workload import INCLUDE, Workload
from tests.support.lab.hosts import Host
from tests.support.programs import (
    AS_NOBODY,
    ROOT,
    Program,
    free_port,
    is_listening,
    probing,
    queued,
    wait_for_reader,
    wait_until,
)

_COLLECTORS = ROOT / "docs" / "collectors"
#: Each page has one block of commands.
_PAGES = (
    *(_COLLECTORS / f"{name}.md" for name in ("nfdump", "pmacct", "wireshark", "sockflow-collect")),
    ROOT / "docs" / "destinations.md",
)
_PORTS = re.compile(r"\b(?:4739|4740|2055)\b")
#: Files of TLS. The probe of the tests runs in another directory.
_RELATIVE = re.compile(r"=([\w.]+\.(?:pem|key))\b")
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)
#: A command of one line, or of more lines if it writes a file.
_COMMAND = re.compile(r"^[^\n]*<<END\n.*?^END$|^[^\n]+$", re.M | re.S)
#: Writes the arguments of ``sockflow run`` to a file. Other subcommands are run as usual.
_STAND_IN = """#!/bin/sh
if [ "$1" = run ]; then
    shift; for word; do printf '%s\\n' "$word"; done > run.words
else
    PYTHONPATH='{root}' exec '{python}' -m probe "$@"
fi
"""
#: Runs a command as a user, because tshark 4.4 loads Lua only then.
_TSHARK = """#!/bin/sh
exec {as_nobody} {tshark} "$@"
"""


class Section:
    """The commands of one page, in their own folder and at free ports."""

    def __init__(self, title: str, block: str, folder: Path) -> None:
        self.title = title
        self.folder = folder / title
        self.folder.mkdir()
        found = set(_PORTS.findall(block))
        ports = {port: str(free_port(socket.SOCK_STREAM)) for port in found}
        self.ports = [int(port) for port in ports.values()]
        commands = _COMMAND.findall(_PORTS.sub(lambda found: ports[found[0]], block))
        at = next(n for n, one in enumerate(commands) if one.startswith("sockflow run "))
        self._before, self._run, self._after = commands[:at], commands[at], commands[at + 1 :]
        self.programs: list[Program] = []
        self.shown: list[str] = []

    def begin(self) -> list[str]:
        """Starts the collectors, and returns the arguments for the probe."""
        for command in self._before:
            if command.endswith("&"):
                name = f"program-{len(self.programs)}"
                inside = f"cd '{self.folder}' && exec {command.removesuffix('&')}"
                self.programs.append(Program(("sh", "-c", inside), self.folder, name))
            else:
                self._do(command)
        for port in self.ports:
            wait_until(partial(self._is_ready, port), f"{self.title}: {self.errors}")
        wait_until(lambda: self.errors.count("listening on") == self._captures(), self.title)
        self._do(self._run)
        words = (self.folder / "run.words").read_text().splitlines()
        return [_RELATIVE.sub(lambda found: f"={self.folder}/{found[1]}", word) for word in words]

    def end(self) -> None:
        for port in self.ports:
            if queued(port) is not None:
                wait_for_reader(port)
        for program in self.programs:
            program.stop(signal.SIGINT)
        self.shown = [self._do(command) for command in self._after]

    def close(self) -> None:
        for program in self.programs:
            program.end()

    @property
    def errors(self) -> str:
        return "".join(program.errors for program in self.programs)

    def _captures(self) -> int:
        return sum(command.startswith("tcpdump ") for command in self._before)

    def _is_ready(self, port: int) -> bool:
        assert all(program.is_alive() for program in self.programs), self.errors
        return queued(port) is not None or is_listening(port)

    def _do(self, command: str) -> str:
        """Returns the command's output. No documented command may fail or complain."""
        done = subprocess.run(
            ["sh", "-ec", command], cwd=self.folder, capture_output=True, text=True, timeout=180,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout


@pytest.fixture(scope="module")
def sections(
    hosts: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Section]]:
    folder = tmp_path_factory.mktemp("documented")
    _write_command(folder / "sockflow", _STAND_IN.format(root=ROOT, python=sys.executable))
    tshark = _TSHARK.format(as_nobody=" ".join(AS_NOBODY), tshark=shutil.which("tshark"))
    _write_command(folder / "tshark", tshark)
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        found = {}
        for section in _read_sections(folder):
            stack.enter_context(contextlib.closing(section))
            found[section.title] = section
        words = [word for section in found.values() for word in section.begin()]
        probe = stack.enter_context(probing(folder, *words, *INCLUDE))
        workload = Workload(hosts)
        workload.datagrams(20)
        workload.short(6)
        assert probe.stop() == 0, probe.errors
        assert "lost: nothing" in probe.errors
        for section in found.values():
            section.end()
        yield found


def _write_command(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _read_sections(folder: Path) -> Iterator[Section]:
    for page in _PAGES:
        (block,) = _BLOCK.findall(page.read_text())
        yield Section(page.stem, block, folder)


def json_flows(text: str) -> list[dict[str, object]]:
    records = [json.loads(line) for line in text.splitlines()]
    return [record for record in records if not record.get("options")]


@pytest.fixture(scope="module")
def due(sections: dict[str, Section]) -> int:
    """Returns how many flow records each collector must show: those of the file."""
    found = json_flows(sections["sockflow-collect"].shown[1])
    assert len(found) == 2 * (40 + 36)  # UDP, TCP
    return len(found)


def test_nfdump(sections: dict[str, Section], due: int) -> None:
    times, translated, nine = sections["nfdump"].shown
    for shown in (times, translated, nine):
        assert f"total flows: {due}," in shown
    assert "10.79.1.2:7010" in times
    assert "10.79.1.2:7010" in nine


def test_pmacct(sections: dict[str, Section], due: int) -> None:
    (shown,) = sections["pmacct"].shown
    # nfacctd once wrote every row twice, when it was stopped about the time of its refresh
    head, *lines = shown.splitlines()
    rows = list(csv.DictReader([head, *dict.fromkeys(lines)]))
    assert len(rows) == due
    assert {row["src_proc_name"] for row in rows} == {Path(sys.executable).name[:15]}


def test_tshark(sections: dict[str, Section], due: int) -> None:
    details, names = sections["wireshark"].shown
    assert "10.79.1.2" in details
    assert "sourceProcessPath" in details
    found = [line.split("\t") for line in names.splitlines()]
    assert sum(len(path.split(",")) for _, path in found) == due
    paths = {path for _, paths in found for path in paths.split(",")}
    assert paths == {str(Path(sys.executable).resolve())}
    collected = (sections["wireshark"].folder / "collected.json").read_text()
    assert len(json_flows(collected)) == due


def test_our_own_collector(sections: dict[str, Section], due: int) -> None:
    """Over UDP each direction has a record, over TCP one record has both."""
    collected, file = (json_flows(text) for text in sections["sockflow-collect"].shown)
    biflows = [record for record in collected if "reversePacketDeltaCount" in record]
    assert len(file) == due
    assert len(collected) - len(biflows) == due
    assert len(biflows) == due / 2


def test_tls(sections: dict[str, Section], due: int) -> None:
    (shown,) = sections["destinations"].shown
    assert len(json_flows(shown)) == due


def test_the_table_has_the_profiles_that_agreement_is_tested_with() -> None:
    table = (_COLLECTORS / "README.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    for collector, scheme in ((Nfcapd, "ipfix"), (Nfacctd, "ipfix"), (Nfcapd, "netflow9")):
        (row,) = [row for row in rows if f"({collector.name})" in row]
        assert re.search(rf"`{scheme}://H:\d+\?profile={collector.profile}`", row)


def test_tests_that_the_table_names_exist() -> None:
    pages = [*_COLLECTORS.glob("*.md"), ROOT / "docs" / "destinations.md"]
    text = "".join(page.read_text() for page in pages)
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) >= 8
    assert {
        name for name in named if not (ROOT / "tests/interop" / f"{name}.py").is_file()
    } == set()
