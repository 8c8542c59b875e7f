"""The tree as somebody clones it: it refers to nothing outside, and its tests are found."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: What no clone has beside it, and paths and hosts that no user has. This file names them.
_OUTSIDE = re.compile(
    r"\.\./shared|shared/(tools|cases|facts|hooks)|/root/|/work/|deb\.debian\.org|pypi\.org"
    r"|pythonhosted\.org|registry\.npmjs"
)
_PARENTS = re.compile(r"__file__.*\.parents\[(\d+)\]")
#: It runs the validator beside a checkout where there is one.
_MAY = {Path(".ci/run"), Path(__file__).resolve().relative_to(ROOT)}
_NOT_OURS = {".git", ".venv", "build", "dist", "__pycache__"}


def tracked() -> list[Path]:
    """What a clone has, new files too; without git (an sdist), all that is there."""
    command = ("git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others",
               "--exclude-standard")  # fmt: skip
    if not (ROOT / ".git").exists():
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        return [path for path in found if not _NOT_OURS & set(path.parts)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    paths = map(Path, filter(None, done.stdout.split("\0")))
    return [path for path in paths if (ROOT / path).is_file()]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In a folder that has nothing beside it."""
    folder = tmp_path_factory.mktemp("empty") / "sockflow"
    for path in tracked():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)
    return folder


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
    """``parents[n]`` of a file that is n folders deep is the tree's root."""
    for path, text in texts(clone):
        for level in _PARENTS.findall(text):
            assert int(level) < len(path.parts), f"{path}: parents[{level}]"


def test_its_tests_are_found(clone: Path) -> None:
    """All of them, by an interpreter that knows no other tree than this one."""
    command = (sys.executable, "-P", "-m", "pytest", "--collect-only", "-q", "-p",
               "no:cacheprovider")  # fmt: skip
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        command, cwd=clone, env=environment, text=True, capture_output=True, check=False,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert len(re.findall(r"^tests/\S+::", done.stdout, re.MULTILINE)) > 1000
