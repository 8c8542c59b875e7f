"""Tests type records (RFC 5610) with libfixbuf, the library of YAF and SiLK.

It accepts a type record only if its Options Template has all fields of RFC 5610. It ignores one for
an element that a Template has already named: that element stays unknown.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from probe.mapping import load_elements, load_profiles
from tests.support.ipfix.profiles import ProfileSession

_ALIEN = "_alienInformationElement"
_DESCRIBED = [name for name, profile in load_profiles().items() if "types" in profile.options]


def dumped(file: Path) -> str:
    command = ("ipfixDump", "--rfc5610", "-i", file)
    done = subprocess.run(command, check=True, text=True, capture_output=True, timeout=180)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("protocol", ["ipfix", "biflow"])
@pytest.mark.parametrize("profile", _DESCRIBED)
def test_libfixbuf_knows_every_element(tmp_path: Path, profile: str, protocol: str) -> None:
    session = ProfileSession(profile, protocol)
    file = tmp_path / "flows.ipfix"
    file.write_bytes(b"".join(session.messages(session.records(20))))
    text = dumped(file)
    assert _ALIEN not in text
    fields = re.findall(r"ent: *(\d+)  id: *(\d+)  type: (\w+).* (\w+)$", text, re.M)
    elements = load_elements()
    own = [
        (int(pen), int(number), name)
        for pen, number, _, name in fields
        if pen not in ("0", "29305")
    ]
    assert own
    for pen, number, name in own:
        element = elements.numbered(pen, number)
        assert element
        assert name == element.name


def test_its_types_and_descriptions_are_told(tmp_path: Path) -> None:
    session = ProfileSession("full")
    file = tmp_path / "flows.ipfix"
    file.write_bytes(b"".join(session.messages(session.records(1))))
    text = dumped(file)
    assert re.search(r"id: +20  type: uint64 +len: +8 +lossTotalCount", text)
    assert re.search(r"informationElementDescription : .*How often lossCause struck", text)
    for name in ("RangeBegin", "RangeEnd"):
        assert re.search(rf"informationElement{name} : 0", text)


def test_own_elements_have_descriptions() -> None:
    own = [element for element in load_elements(4711) if element.pen == 4711]
    assert len(own) > 50
    assert [element.name for element in own if not element.description] == []
    assert max(len(element.description) for element in own) <= 96, "the length of the field"
