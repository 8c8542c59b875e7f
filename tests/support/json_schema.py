"""Checks lines of JSON against docs/schema/sockflow.schema.json."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

_ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((_ROOT / "docs" / "schema" / "sockflow.schema.json").read_text())


@cache
def _validator(kind: str) -> Any:
    schema = SCHEMA if not kind else {"$ref": f"#/$defs/{kind}", "$defs": SCHEMA["$defs"]}
    return Draft202012Validator(schema, format_checker=FormatChecker())


def check_line(line: str, kind: str = "") -> dict[str, Any]:
    """Returns the object of a valid ``line``; ``kind`` is a name of $defs, or any if empty."""
    found: dict[str, Any] = json.loads(line)
    errors = [
        f"{error.json_path}: {error.message}" for error in _validator(kind).iter_errors(found)
    ]
    assert not errors, f"{line}\n{errors}"
    return found
