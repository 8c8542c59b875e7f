"""Imports go down the list, never up; the protocol core does no I/O and has no clock."""

from __future__ import annotations

import ast
import configparser
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROBE = ROOT / "probe"

#: From top to bottom. Modules of the front door may use each other; so may the leaves.
LAYERS = [
    {"__main__", "commands", "api", "run", "collector", "view", "prometheus", "ntopng",
     "jsonlines"},
    {"export"},
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
]  # fmt: skip
PURE = ("flow", "ipfix")
FORBIDDEN = {"socket", "time", "asyncio", "os", "select", "selectors", "threading"}
MODULES = sorted(PROBE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Absolute names of all modules that ``path`` imports, inside functions too."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def layer(name: str) -> int | None:
    for number, members in enumerate(LAYERS):
        if name in members:
            return number
    return None


def part(path: Path) -> str:
    return path.relative_to(PROBE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_arrow_goes_up(path: Path) -> None:
    own = part(path)
    if own == "__init__":
        return
    assert layer(own) is not None, f"{own} has no place in the list of layers"
    for name in imports(path):
        parts = name.split(".")
        target = layer(parts[1]) if parts[0] == "probe" and len(parts) > 1 else None
        if target is not None:
            assert target >= (layer(own) or 0), f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("folder", PURE)
def test_the_core_does_no_input_or_output(folder: str) -> None:
    for path in (PROBE / folder).rglob("*.py"):
        found = {name.split(".")[0] for name in imports(path)} & FORBIDDEN
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_an_upward_arrow_would_be_seen(tmp_path: Path) -> None:
    path = PROBE / "flow" / "columns.py"
    assert "numpy" in set(imports(path))
    assert (layer("flow") or 0) > (layer("export") or 0)


def test_every_package_is_shipped() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    found = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in PROBE.rglob("__init__.py")
    } | {"probe.bpf", "probe.templates"}
    assert listed == found
