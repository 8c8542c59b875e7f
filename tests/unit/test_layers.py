"""Tests that imports go down the list of rooms, and that the protocol core does no I/O."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from tests.support.imports import Floors, circles, faults, imports, modules

ROOT = Path(__file__).resolve().parents[2]
PROBE = ROOT / "probe"

#: Rooms from top to bottom. A subfolder with its own floor is named with a dot.
LAYERS = [
    {"__main__"},
    {"commands", "api"},
    {"run"},
    {"prometheus"},
    {"collector"},
    {"view"},
    {"ntopng"},
    {"jsonlines"},
    {"export"},
    {"export.transports"},
    {"config"},
    {"snmp"},
    {"enrich"},
    {"sources"},
    {"interfaces"},
    {"owners"},
    {"mapping"},
    {"kernel", "netlink"},
    {"flow"},
    {"ipfix"},
    {"guard", "log", "opening", "stop"},
    {"errors", "figures", "printable", "units"},
]
FLOORS = Floors("probe", [sorted(names) for names in LAYERS], ("probe.bpf", "probe.templates"))
#: Known faults. A fault that is cured must be removed from the list.
KNOWN: set[str] = set()
PURE = ("flow", "ipfix")
FORBIDDEN = {"socket", "time", "asyncio", "os", "select", "selectors", "threading"}


def test_imports_go_down() -> None:
    assert set(faults(ROOT, FLOORS)) == KNOWN


@pytest.mark.parametrize("folder", PURE)
def test_the_core_does_no_input_or_output(folder: str) -> None:
    for path in (PROBE / folder).rglob("*.py"):
        found = {module.split(".")[0] for module, _ in imports(path, ROOT)} & FORBIDDEN
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


HOUSE = {
    "top/__init__.py": "",
    "top/a.py": "from house.middle.b import x\nimport numpy\n",
    "middle/__init__.py": "",
    "middle/b.py": "from ..ground import thing\nfrom . import c\n",
    "middle/c.py": "",
    "middle/inner/__init__.py": "",
    "middle/inner/d.py": "",
    "ground.py": "import os\n",
    "beside.py": "",
}
HOUSE_FLOORS = Floors(
    "house", [["top"], ["middle"], ["middle.inner"], ["ground", "beside"]], ["house.data"]
)


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("ground.py", "import house.top.a", "house.ground imports house.top.a, which is not below"),
        ("ground.py", "from house import top", "house.ground imports house.top, which is not"),
        ("ground.py", "from house import beside", "house.ground imports house.beside, which is"),
        ("ground.py", "def f():\n    from house.middle import b", "house.ground imports house.m"),
        ("middle/inner/d.py", "from .. import c", "house.middle.inner.d imports house.middle.c"),
        (
            "ground.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.top import a",
            "house.ground imports house.top.a, which is not below it",
        ),
        ("middle/c.py", "from house.middle.b import x", "circle: house.middle.b, house.middle.c"),
        (
            "middle/c.py",
            "def f():\n    from . import b",
            "circle: house.middle.b, house.middle.c",
        ),
        ("ground.py", "import house.top.a", "circle of rooms: ground, middle, top"),
        ("top/a.py", "from house.gone import x", "house.top.a imports house.gone, which does not"),
        ("top/a.py", "from house.data import x\nfrom house import data", ""),
        ("attic.py", "", "house.attic has no place in the list of rooms"),
        ("beside.py", None, "there is no room beside"),
        ("top/a.py", "", ""),
    ],
)
def test_each_kind_of_fault_is_found(
    tmp_path: Path, file: str, text: str | None, fault: str
) -> None:
    house = {**HOUSE, "__init__.py": "", file: text}
    for name, content in house.items():
        if content is not None:
            path = tmp_path / "house" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    found = faults(tmp_path, HOUSE_FLOORS)
    if fault:
        assert any(one.startswith(fault) for one in found), found
    else:
        assert found == []


def test_all_circles_are_found() -> None:
    arrows = {"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"e"}, "e": {"c"}, "f": {"a", "c"}}
    assert circles(arrows) == [["a", "b"], ["c", "d", "e"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_every_package_is_shipped() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    found = {name for name, path in modules(ROOT, "probe").items() if path.name == "__init__.py"}
    assert listed == found | {"probe.bpf", "probe.templates"}
