"""Tests what pip makes of the tree: a wheel with the kernel half, and an sdist that is a clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.tree import copy_tree, tracked

_OBJECT = "probe/bpf/sockflow.bpf.o"
_EM_BPF = 247  # EM_BPF of elf.h
_BUILD = "from setuptools import build_meta; print(build_meta.{what}({folder!r}))"
_PATIENCE_S = 600


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Returns a copy of the tree without a compiled object, as in a clone."""
    return copy_tree(tmp_path / "tree")


def build(what: str, tree: Path, folder: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """Builds with the installed setuptools, by the functions that pip calls."""
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-P", "-c", _BUILD.format(what=what, folder=str(folder))],
        cwd=tree, env={**os.environ, "PATH": path or os.environ["PATH"]}, text=True,
        capture_output=True, timeout=_PATIENCE_S, check=False,
    )  # fmt: skip


def test_a_wheel_has_the_kernel_half(tree: Path, tmp_path: Path) -> None:
    done = build("build_wheel", tree, tmp_path / "wheels")
    assert done.returncode == 0, done.stderr
    assert not list(tree.glob("bpf/*.o")), "the tree is left as it was"
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        octets = archive.read(_OBJECT)
    assert octets[:4] == b"\x7fELF"
    assert int.from_bytes(octets[18:20], sys.byteorder) == _EM_BPF
    assert names >= {
        "probe/commands/cli.py",
        "probe/templates/full.txt",
        "probe/templates/wireshark.lua",
    }
    assert not [name for name in names if name.startswith(("tests/", "bench/"))]


def test_a_stale_object_is_not_shipped(tree: Path, tmp_path: Path) -> None:
    """A stale object is compiled again, however new it looks."""
    (tree / "bpf" / "sockflow.bpf.o").write_bytes(b"of another version")
    assert build("build_wheel", tree, tmp_path / "wheels").returncode == 0
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(_OBJECT).startswith(b"\x7fELF")


@pytest.mark.parametrize("missing", ["make", "clang", "llvm-strip"])
def test_without_a_compiler(missing: str, tree: Path, tmp_path: Path) -> None:
    """No wheel is made, and the last lines say what to install."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in {"make", "clang", "llvm-strip", "sh", "uname", "sed", "mv"} - {missing}:
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    done = build("build_wheel", tree, tmp_path / "wheels", str(folder))
    assert done.returncode == 1
    assert not list((tmp_path / "wheels").glob("*.whl"))
    assert "Traceback" not in done.stderr
    *_, said, what, command = done.stderr.strip().splitlines()
    assert said == f"sockflow: its kernel half cannot be compiled: there is no {missing}."
    assert what.startswith("Install what it is compiled with")
    assert "apt install clang llvm libbpf-dev" in command


def test_sources_that_do_not_compile(tree: Path, tmp_path: Path) -> None:
    source = tree / "bpf" / "sockflow.bpf.c"
    source.write_text(source.read_text() + "\n#error not today\n")
    done = build("build_wheel", tree, tmp_path / "wheels")
    assert done.returncode == 1
    assert "not today" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_sdist_is_a_clone(tree: Path, tmp_path: Path) -> None:
    """It has every file, and the same kernel half is built of it."""
    done = build("build_sdist", tree, tmp_path / "sdists")
    assert done.returncode == 0, done.stderr
    (sdist,) = (tmp_path / "sdists").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    found = {path.relative_to(unpacked) for path in unpacked.rglob("*") if path.is_file()}
    assert set(tracked()) - found == set()
    done = build("build_wheel", unpacked, tmp_path / "wheels")
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(_OBJECT).startswith(b"\x7fELF")
