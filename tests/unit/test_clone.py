"""Tests that a clone refers to nothing outside of it, and that pytest finds its tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tree import ROOT, copy_tree

#: Folders, paths and hosts that exist on developers' machines only. This file names them.
_OUTSIDE = re.compile(
    r"\.\./shared|shared/(tools|cases|facts|hooks)|/root/|/work/|deb\.debian\.org|pypi\.org"
    r"|pythonhosted\.org|registry\.npmjs"
)
_PARENTS = re.compile(r"__file__.*\.parents\[(\d+)\]")
#: This file runs a validator that may stand beside a checkout.
_MAY = {Path(".ci/run"), Path(__file__).resolve().relative_to(ROOT)}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a copy of the tree in an otherwise empty folder."""
    return copy_tree(tmp_path_factory.mktemp("empty") / "sockflow")


def texts(folder: Path) -> list[tuple[Path, str]]:
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder) not in _MAY:
            found.append((path.relative_to(folder), path.read_text(errors="replace")))
    return found


def test_no_file_refers_to_what_is_outside(clone: Path) -> None:
    files = texts(clone)
    assert len(files) > 300
    assert [(str(path), found[0]) for path, text in files if (found := _OUTSIDE.search(text))] == []


def test_no_path_leaves_the_tree(clone: Path) -> None:
    """For a file that is n folders deep, ``parents[n]`` is the root of the tree."""
    for path, text in texts(clone):
        for level in _PARENTS.findall(text):
            assert int(level) < len(path.parts), f"{path}: parents[{level}]"


def test_its_tests_are_found(clone: Path) -> None:
    """An interpreter that knows no other tree finds all of them."""
    command = (sys.executable, "-P", "-m", "pytest", "--collect-only", "-q", "-p",
               "no:cacheprovider")  # fmt: skip
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("PYTHONPATH", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    done = subprocess.run(
        command, cwd=clone, env=environment, text=True, capture_output=True, check=False,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert len(re.findall(r"^tests/\S+::", done.stdout, re.MULTILINE)) > 1000
