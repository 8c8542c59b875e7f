"""Tests that no name that others chose controls the terminal, wherever Sockflow shows it."""

from __future__ import annotations

import ast
import io
import json
import logging
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from probe import log
from probe.collector.output import JsonLines, Live, Printed
from probe.commands import interface_screen as interfaces
from probe.commands.cli import main
from probe.flow.codes import EventKind
from probe.flow.columns import EVENT_DTYPE, SOCKET_DTYPE
from probe.flow.filter import Choice
from probe.flow.owner import Container, ContainerNames, Owner, OwnerTable, Pod, Process
from probe.interfaces.interface import Interface
from probe.ipfix.decode import Decoded, Record
from probe.printable import printable
from probe.view import event_views, flow_views, groups
from probe.view.terminal import Drawn, Terminal, print_table
from tests.support.records import NOW_NS, NOW_S
from tests.unit.test_live_views import record
from tests.unit.test_view import record as decoded_record

#: Clear screen, C1's CSI, DEL, line feed, carriage return, change of direction, half a surrogate,
#: zero width, variation selector.
NASTY = "\x1b[2J\x9b1m\x7f\nFORGED\r\v\u2028\u202egpj.\u2066\ud83d\u200b\u200d\ufeff\u3164\ufe0fend"
_ALLOWED = {"\n"}


def is_safe(output: str) -> bool:
    """Returns True if ``output`` is harmless. It uses Unicode's categories, not ``printable``."""
    kinds = {unicodedata.category(one) for one in set(output) - _ALLOWED}
    invisible = set(output) & set("\u034f\u115f\u1160\u3164\uffa0\ufe0f\u2800")
    return not invisible and not kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def assert_safe(output: str, lines: int | None = None) -> None:
    assert "end" in output, "the name is not there at all"
    assert is_safe(output), ascii(output)
    assert "\nFORGED" not in output
    if lines is not None:
        assert output.count("\n") == lines, output


def owner(**more: Any) -> Owner:
    parts: dict[str, Any] = {
        "process": Process(1, NASTY, uid=2, user_name=NASTY),
        "parent": Process(3, NASTY),
        "container": Container(NASTY, name=NASTY),
    }
    return Owner(**(parts | more))


#: Owners with a name from a runtime, with the name of a cgroup only, and in a Pod.
OWNERS = [
    owner(),
    owner(container=Container(f"end{NASTY}")),
    owner(pod=Pod(NASTY, NASTY)),
]


def table(one: Owner) -> OwnerTable:
    found = OwnerTable()
    for _ in range(2):
        found.add(one)
    return found


def test_is_safe_would_see_it() -> None:
    for one in (
        NASTY.removesuffix("end").replace("\n", "").replace("FORGED", "").replace("gpj.", "")
    ):
        if one not in "[2J1m":
            assert not is_safe(one), ascii(one)


def test_printable() -> None:
    assert printable("grün 漢字 é ├─ 🐳") == "grün 漢字 é ├─ 🐳"
    assert printable("a\x1b[2Jb\n\x9bc\u202ed\u200be\ud800f") == "a?[2Jb??c?d?e?f"
    assert len(printable(NASTY)) == len(NASTY)


@pytest.mark.parametrize("one", OWNERS)
@pytest.mark.parametrize("as_tree", [False, True])
def test_flows(one: Owner, as_tree: bool) -> None:
    stream = io.StringIO()
    view = flow_views.FlowsByLine(table(one), Choice((), ()), stream, "age", as_tree)
    view.send(record(1), NOW_S)
    view.refresh()
    assert_safe(stream.getvalue(), None if as_tree else 1)


@pytest.mark.parametrize("one", OWNERS)
@pytest.mark.parametrize("by", groups.GROUPS)
def test_groups(one: Owner, by: str) -> None:
    stream = io.StringIO()
    view = flow_views.GroupsAtEnd(table(one), Choice((), ()), stream, "octets", by)
    view.send(record(1), NOW_S)
    view.end()
    if by not in ("pod", "namespace", "workload") or one.pod.name:
        assert_safe(stream.getvalue(), 2)


@pytest.mark.parametrize("one", OWNERS)
@pytest.mark.parametrize("kind", [EventKind.CONNECT, EventKind.CONTAINER_START])
def test_events(one: Owner, kind: EventKind) -> None:
    stream = io.StringIO()
    view = event_views.Events(table(one), Choice((), ()), stream, False, list(EventKind))
    events = _zeros(EVENT_DTYPE)
    events["kind"], events["owner"], events["ip_version"], events["time_ns"] = kind, 1, 4, NOW_NS
    view.send_events(events, NOW_S)
    assert_safe(stream.getvalue(), 1)


@pytest.mark.parametrize("one", OWNERS)
def test_listening(one: Owner) -> None:
    stream = io.StringIO()
    view = event_views.Listening(table(one), Choice((), ()), stream)
    sockets = _zeros(SOCKET_DTYPE)
    sockets["owner"], sockets["ip_version"] = 1, 4
    view.send_sockets(sockets, NOW_S)
    assert_safe(stream.getvalue(), 1)


LINKS = [
    Interface(1, NASTY),
    Interface(2, "veth1", inner_name=NASTY, container_id=NASTY),
    Interface(3, "veth2", inner_name="eth0", container_id="a", names=ContainerNames(NASTY)),
    Interface(4, "dummy0", alias=NASTY),
]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("as_json", [False, True])
def test_interfaces(link: Interface, as_json: bool) -> None:
    stream = io.StringIO()
    lines = interfaces._JsonLines(stream) if as_json else interfaces._Lines(stream)
    lines.show([link], {})
    if not (as_json and (link.alias or link.inner_name == NASTY)):  # JSON has neither
        assert_safe(stream.getvalue(), 1 if as_json else 2)
    if as_json and link.name == NASTY:
        assert json.loads(stream.getvalue())["ifName"] == NASTY


@pytest.mark.parametrize("output", [JsonLines(True), Live, Printed])
def test_what_was_collected(output: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = output if isinstance(output, JsonLines) else output()
    names = dict.fromkeys(("SRC_PROC_NAME", "SRC_PROC_USER_NAME", "SRC_PROC_CONTAINER_ID"), NASTY)
    one = decoded_record(**names, sourceContainerName=NASTY, tcpState=NASTY)
    options: list[Record] = [{NASTY: NASTY}] if isinstance(found, JsonLines) else []
    found.show(Decoded([one], options))
    found.refresh(NASTY)
    found.close()
    assert_safe(capsys.readouterr().out, 2 if options else 1)


def test_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """rich writes its own escapes there. None of the names' escapes may be among them."""
    drawn = Drawn(NASTY, ("process", NASTY), [(NASTY, f"[red]{NASTY}[/red]")], (), ())
    print_table(stream := io.StringIO(), drawn)
    assert_safe(stream.getvalue())
    assert "[red]" in stream.getvalue()
    terminal = Terminal()
    monkeypatch.setattr(terminal, "_live", live := _Drawn())
    terminal.show_table(drawn)
    terminal.show_lines(NASTY, [NASTY, "├─ " + NASTY])
    for shown in live.shown:
        Console(file=(stream := io.StringIO()), width=300).print(shown)
        assert_safe(stream.getvalue())


def test_warnings_errors_and_summaries(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(0)
    logging.getLogger("probe.test").warning("container %s is gone", NASTY)
    assert main(["run", "--config", NASTY.replace("\ud83d", "")]) == 2
    assert main([NASTY]) == 2
    log.say(f"{NASTY}: 3 more broken messages")
    assert_safe(capsys.readouterr().err, 4)


def test_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(0)
    try:
        raise ValueError(NASTY)
    except ValueError:
        logging.getLogger("probe.test").exception("of %s", NASTY)
    assert_safe(capsys.readouterr().err)


#: Files that may write for people: the two that clean names, and those that write no names.
_MAY_WRITE = {
    "log.py",
    "view/text.py",
    "view/terminal.py",
    "commands/cli.py",
    "commands/templates.py",
}


def test_nothing_is_shown_elsewhere() -> None:
    """No other file writes to the terminal, because it would have to clean names itself."""
    folder = Path(log.__file__).parent
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            shows = called in ("print", "sys.stdout.write", "sys.stderr.write") or (
                called.endswith((".writelines", "stream.write"))
            )
            assert not shows or str(path.relative_to(folder)) in _MAY_WRITE, f"{path}: {called}"


def test_output_that_lacks_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    assert main(["templates"]) == 0
    print("grün ├─")
    sys.stdout.flush()
    assert b"gr?n ??" in raw.getvalue()


class _Drawn:
    """A live display that keeps what ``Terminal`` gives to rich."""

    is_started = True

    def __init__(self) -> None:
        self.shown: list[Any] = []

    def update(self, drawn: Any, refresh: bool) -> None:
        self.shown.append(drawn)


def _zeros(dtype: Any) -> Any:
    import numpy as np

    return np.zeros(1, dtype)
