"""The tree of these tests, as a clone has it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_NOT_OURS = {".git", ".hypothesis", ".venv", "build", "dist", "__pycache__"}


def tracked() -> list[Path]:
    """Returns the files of a clone with new ones; without git (an sdist) all files."""
    command = ("git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others",
               "--exclude-standard")  # fmt: skip
    if not (ROOT / ".git").exists():
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        return [path for path in found if not _is_made(path)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    paths = map(Path, filter(None, done.stdout.split("\0")))
    return [path for path in paths if (ROOT / path).is_file()]


def _is_made(path: Path) -> bool:
    is_cache = any(part.endswith(("_cache", ".egg-info")) for part in path.parts)
    return is_cache or path.suffix == ".o" or bool(_NOT_OURS & set(path.parts))


def copy_tree(folder: Path) -> Path:
    for path in tracked():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)
    return folder
