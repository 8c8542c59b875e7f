"""The project's independent validator of IPFIX, handed to us beside the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PATH = Path(__file__).resolve().parents[3] / "shared" / "tools" / "ipfix_check.py"
_MISSING = f"{PATH} is missing: these tests need the project's shared tools beside the checkout"


def require() -> Path:
    assert PATH.is_file(), _MISSING
    return PATH


def check(capture: Path, port: int, *options: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(its report, every Data Record as it decoded it); fails where it finds an error."""
    dump = capture.with_suffix(".records")
    command = [sys.executable, str(require()), str(capture), "--port", str(port), "--json",
               "--dump", str(dump), *options]  # fmt: skip
    done = subprocess.run(command, text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in dump.read_text().splitlines()]
    return json.loads(done.stdout), records
