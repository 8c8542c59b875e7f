"""A wheel has the kernel half as an object: this compiles it. All else is in setup.cfg."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

_SOURCES = Path(__file__).resolve().parent / "bpf"
_OBJECT = "sockflow.bpf.o"
_NEEDS = """sockflow: its kernel half cannot be compiled: {reason}
Install what it is compiled with, and try again. On Debian and Ubuntu:
    apt install clang llvm libbpf-dev linux-libc-dev make"""


class BuildWithKernelHalf(build_py):
    """Compiles ``bpf/`` by its Makefile: into the wheel, or into an editable install's tree."""

    def run(self) -> None:
        super().run()
        folder = _SOURCES if self.editable_mode else Path(self.build_lib) / "probe" / "bpf"
        _compile((folder / _OBJECT).resolve())


def _compile(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    is_made = target.parent == _SOURCES and not _make("--question", f"OBJECT={target.name}")
    if is_made:
        return
    for name in ("make", "clang", "llvm-strip"):
        if not shutil.which(name):
            raise SystemExit(_NEEDS.format(reason=f"there is no {name}."))
    if output := _make("--always-make", f"OBJECT={target}"):
        raise SystemExit(_NEEDS.format(reason=f"clang says\n{output}"))


def _make(*arguments: str) -> str:
    """What it said where it failed, else nothing."""
    command = ["make", "--silent", "--directory", str(_SOURCES), *arguments]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    except FileNotFoundError:
        return "there is no make"
    return (done.stdout or f"make ended with {done.returncode}") if done.returncode else ""


setup(cmdclass={"build_py": BuildWithKernelHalf})
