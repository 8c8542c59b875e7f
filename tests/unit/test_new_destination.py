"""Tests that a kind of destination is added by its own module and one line.

The test adds it by data alone.
"""

from __future__ import annotations

import pytest

from probe.commands.cli import main
from probe.config import RunConfig
from probe.errors import ConfigError
from probe.run import destinations
from probe.run.destinations import options_of_kinds, parse_destination
from probe.run.exporter import Exporter
from tests.support.count_destination import COUNT, CountSink
from tests.support.records import NOW_S, Metering, flow_records, owner_table


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destinations, "KINDS", (*destinations.KINDS, COUNT))  # this is the one line


def test_it_works() -> None:
    exporter = Exporter(RunConfig(), owner_table(), Metering())
    exporter.open(["count:///a", "count:///b?of=packets"])
    records = flow_records(7)
    exporter.send(records, NOW_S)
    exporter.close()
    first, second = exporter.sinks
    assert isinstance(first, CountSink)
    assert isinstance(second, CountSink)
    assert (first.count, second.count) == (7, records["packets"].sum())
    assert first.name == "count:///a"


def test_help_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "count:///NAME, a name of your own only the number of records" in shown
    assert "needs: pip install 'sockflow[counting]'" in shown


def test_pages_can_show_its_options() -> None:
    ((option,),) = [options for options, schemes in options_of_kinds() if schemes == ("count",)]
    assert (option.name, option.values) == ("of", "octets|packets")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing:", "known schemes: .*, zmq, count"),
        ("count:relative", "expected count:///NAME, a name of your own"),
        ("count:///a?of=all", "of must be octets or packets"),
        ("count:///a?pace=1", "unknown option pace; known: of; pace is for ipfix, netflow9"),
        ("ipfix://h?of=octets", "unknown option of; .*; of is for count"),
    ],
)
def test_errors_know_it(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"destination .*{said}"):
        parse_destination(text)


def test_a_missing_package_is_named() -> None:
    exporter = Exporter(RunConfig(), owner_table(), Metering())
    said = r"package no_such_package is missing; .*pip install 'sockflow\[counting\]'"
    with pytest.raises(ConfigError, match=said):
        exporter.open(["count:///absent"])
