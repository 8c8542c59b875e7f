"""Which tests may run beside each other: `make test` runs them in several processes.

Kernel tests follow each other, as do those with collectors. One of each may run at the same time:
they have network namespaces and addresses of their own. Building images takes long and meters
nothing while it does. All other tests of a file stay together, for the sake of its fixtures.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

_TESTS = Path(__file__).resolve().parent
#: Folders and files whose tests follow each other.
_TOGETHER = ("kernel/test_compose.py", "kernel", "interop")


@pytest.hookimpl(tryfirst=True)  # before xdist reads them
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            item.add_marker(pytest.mark.xdist_group(_group(item.path)))


def _group(path: Path) -> str:
    place = path.relative_to(_TESTS)
    for name in _TOGETHER:
        if place == Path(name) or Path(name) in place.parents:
            return name
    return str(place)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Names of files that are not UTF-8 are in what tests print, and may not be in what processes
    send each other."""
    return _readable((yield))


def _readable(told: Any) -> Any:
    if isinstance(told, str):
        return told.encode("utf-8", "backslashreplace").decode()
    if isinstance(told, dict):
        return {_readable(key): _readable(value) for key, value in told.items()}
    if isinstance(told, (list, tuple)):
        return [_readable(one) for one in told]
    return told
