"""Tests the elements for Telegraf and libfds.

They must agree with their declarations and with what these programs read.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from xml.etree import ElementTree as Tree

import pytest

from probe.commands.cli import main
from probe.mapping.collector_files import snake_case

_DECLARATIONS = Path(__file__).parents[2] / "templates" / "elements.txt"
_PEN = 4711
#: Telegraf's types (plugins/inputs/netflow/mappings.go), with the types that each may stand for.
_TELEGRAF = {
    "uint": re.compile(r"unsigned(8|16|32|64)|boolean|dateTime(Seconds|Milliseconds)"),
    "string": re.compile("string"),
    "ip": re.compile("ipv[46]Address"),
    "hex": re.compile("octetArray|macAddress|dateTime(Micro|Nano)seconds"),
}
#: Types of libfds (src/iemgr/iemgr_common.cpp).
_SEMANTICS = {"default", "quantity", "totalCounter", "deltaCounter", "identifier", "flags", "list",
              "snmpCounter", "snmpGauge"}  # fmt: skip
_UNITS = {"none", "bits", "octets", "packets", "flows", "seconds", "milliseconds", "microseconds",
          "nanoseconds", "4-octet words", "messages", "hops", "entries", "frames"}  # fmt: skip
#: Members of an element that src/iemgr/iemgr.cpp accepts; it refuses others.
_TAGS = {"id", "name", "dataType", "dataSemantics", "units", "status", "biflowId"}


def declared() -> dict[tuple[int, int], list[str]]:
    """Returns [name, type, semantics, units] by enterprise and number.

    IANA's own elements are left out.
    """
    found = {}
    for line in _DECLARATIONS.read_text().splitlines():
        words = line.partition("#")[0].split()
        if words and not words[1].startswith("0/"):
            pen, number = words[1].replace("private", str(_PEN)).split("/")
            found[int(pen), int(number)] = [words[0], *words[2:5]]
    return found


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["templates", "--pen", str(_PEN), *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def telegraf(text: str) -> dict[tuple[int, int], tuple[str, str]]:
    """Reads the file as Telegraf does: comments begin a line, and each key exists once."""
    found = {}
    for key, name, kind in csv.reader(
        [line for line in text.splitlines() if not line.startswith("#")]
    ):
        assert re.fullmatch(r"\d+\.\d+", key)
        pen, number = map(int, key.split("."))
        assert (pen, number) not in found
        found[pen, number] = name, kind
    return found


def test_telegraf_has_every_element_of_an_enterprise(capsys: pytest.CaptureFixture[str]) -> None:
    found, expected = telegraf(shown(capsys, "--telegraf")), declared()
    assert found.keys() == expected.keys()
    for number, (name, kind) in found.items():
        assert name == snake_case(expected[number][0])
        assert _TELEGRAF[kind].fullmatch(expected[number][1]), number
        # libfds takes this bit for the mark of a reverse element.
        assert not number[1] & 0x4000
    assert len({name for name, _ in found.values()}) == len(found)
    assert found[35632, 169] == ("src_proc_name", "string")
    assert found[_PEN, 1] == ("source_group_id", "uint")
    assert found[29305, 1] == ("reverse_octet_delta_count", "uint")


def test_telegraf_of_one_profile(capsys: pytest.CaptureFixture[str]) -> None:
    few = telegraf(shown(capsys, "nprobe", "--telegraf"))
    assert (35632, 169) in few
    assert (_PEN, 1) not in few
    assert shown(capsys, "--telegraf").startswith("#")


def libfds(text: str) -> tuple[str, int, dict[int, dict[str, str]]]:
    """Returns prefix, enterprise and elements; fails where libfds would refuse the file."""
    root = Tree.fromstring(text.encode())
    assert root.tag == "ipfix-elements"
    (scope,) = root.findall("scope")
    assert [child.tag for child in scope] == ["pen", "name", "biflow"]
    assert scope[2].attrib == {"mode": "none"}
    described = [child for child in root if child is not scope]
    found = {}
    for element in described:
        assert element.tag == "element"
        values = {child.tag: child.text or "" for child in element}
        assert len(values) == len(element)
        assert {"id", "name", "dataType"} <= values.keys() <= _TAGS
        found[int(values.pop("id"))] = values
    assert len(found) == len(described)
    assert len({values["name"] for values in found.values()}) == len(found)
    return scope[1].text or "", int(scope[0].text or ""), found


@pytest.mark.parametrize(
    ("arguments", "prefix", "pen"),
    [
        ([], "sockflow", _PEN),
        (["--enterprise", "35632"], "ntop", 35632),
        (["--enterprise", "56506"], "antrea", 56506),
    ],
)
def test_libfds_has_every_element_of_its_enterprise(
    arguments: list[str], prefix: str, pen: int, capsys: pytest.CaptureFixture[str]
) -> None:
    name, enterprise, found = libfds(shown(capsys, "--libfds", *arguments))
    assert (name, enterprise) == (prefix, pen)
    expected = {number: words for (own, number), words in declared().items() if own == pen}
    assert found.keys() == expected.keys()
    for number, values in found.items():
        semantics, units = values.get("dataSemantics", "-"), values.get("units", "-")
        assert [values["name"], values["dataType"], semantics, units] == expected[number]
        assert semantics in _SEMANTICS | {"-"}
        assert units in _UNITS | {"-"}
        assert values["status"] == "current"
        assert 0 < number < 1 << 15
        assert re.fullmatch(r"\w+", values["name"]), "its names have no colon and no @"


def test_every_enterprise_has_a_file_for_libfds() -> None:
    assert {pen for pen, _ in declared()} == {_PEN, 35632, 56506, 29305}


def test_libfds_of_one_profile(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, found = libfds(shown(capsys, "antrea", "--libfds", "--enterprise", "56506"))
    assert found[101]["name"] == "sourcePodName"
    _, _, everything = libfds(shown(capsys, "--libfds"))
    _, _, some = libfds(shown(capsys, "full", "--libfds"))
    assert set(some) < set(everything)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--libfds", "--enterprise", "9"], "there are no elements of enterprise 9: use "
         "--enterprise with one of 32473, 35632, 56506"),
        (["--libfds", "--enterprise", "29305"], "there are no elements of enterprise 29305"),
        (["iana", "--libfds"], "this profile has elements of IANA only"),
        (["--telegraf", "--enterprise", "35632"], "--enterprise is for --libfds only"),
    ],
)  # fmt: skip
def test_refusals(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["templates", *arguments]) == 2
    captured = capsys.readouterr()
    assert reason in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
