"""Which tests may run beside each other: `make test` runs them in several processes.

Kernel tests follow each other, as do those with collectors. One of each may run at the same time:
they have network namespaces and addresses of their own. Tests with collectors that look at this
host's interfaces are with the kernel tests, which make some. Building images takes long and meters
nothing while it does. All other tests of a file stay together, for the sake of its fixtures.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

#: Tests in these files and folders follow each other, if they have the same name here.
_TOGETHER = {
    "tests/kernel/test_compose.py": "images",
    "tests/interop/test_options.py": "kernel",
    "tests/interop/test_interface_records.py": "kernel",
    "tests/kernel": "kernel",
    "tests/interop": "collectors",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):  # type: ignore[misc]  # not everybody has it
        def _split_scope(self, nodeid: str) -> str:
            file = Path(nodeid.partition("::")[0])
            names = (_TOGETHER.get(str(place)) for place in (file, *file.parents))
            return next(filter(None, names), str(file))

    return ByFolder(config, log)


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
