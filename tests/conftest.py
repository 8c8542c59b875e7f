"""Says which tests may run beside each other with pytest-xdist (``-n 2 --dist loadscope``).

All tests that load eBPF follow each other: the probe meters the whole host, so one test would count
the traffic of another. The tests of all other files run beside them. The tests of one file stay
together, for the sake of its fixtures.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

#: Folders whose tests follow each other.
_METERING = ("tests/kernel", "tests/interop")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class MeteringInOne(LoadScopeScheduling):  # type: ignore[misc]  # not everybody has it
        def _split_scope(self, nodeid: str) -> str:
            file = Path(nodeid.partition("::")[0])
            is_metering = any(Path(name) in file.parents for name in _METERING)
            return "metering" if is_metering else str(file)

    return MeteringInOne(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Escapes what is not UTF-8 in a report, such as a file's name: xdist could not send it."""
    return _readable((yield))


def _readable(report: Any) -> Any:
    if isinstance(report, str):
        return report.encode("utf-8", "backslashreplace").decode()
    if isinstance(report, dict):
        return {_readable(key): _readable(value) for key, value in report.items()}
    if isinstance(report, (list, tuple)):
        return [_readable(one) for one in report]
    return report
