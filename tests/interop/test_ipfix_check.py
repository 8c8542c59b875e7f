"""Every message of our sessions before the project's independent checker (../shared/tools)."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import pytest

from probe.ipfix.session import ExportSession
from probe.mapping import Encoder, load_elements, load_template
from tests.interop.checker import require
from tests.records import NOW_S, flow_records, owner_table


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ipfix_check", require())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def feed(check: Any, start: float, name: str, max_message: int = 1400) -> None:
    """A session of 20 minutes with flows of both IP versions, as the checker would capture it."""
    encoder = Encoder(load_template(name, load_elements()), owner_table())
    session = ExportSession(encoder, odid=3, max_message=max_message)
    for step in range(5):
        now = start + step * 300.5
        records = flow_records(200, ip_version=4 if step % 2 else 6)
        records["first_ns"] += int((now - NOW_S) * 1e9)
        records["last_ns"] += int((now - NOW_S) * 1e9)
        for train in session.messages(records, now):
            for message in train:
                check.feed(bytes(message), now, ("probe", start))


@pytest.mark.parametrize("name", ["full", "numeric"])
@pytest.mark.parametrize("max_message", [700, 1400])
def test_no_rule_is_broken(checker: ModuleType, name: str, max_message: int) -> None:
    """Template refresh included, and what is legal but not understood everywhere."""
    check = checker.Checker(interop=True)
    feed(check, NOW_S, name, max_message)
    assert check.finish() == []
    assert check.tot["flow_records"] == 1000
    assert check.summary()["template_resends"] >= 2


def test_no_rule_is_broken_by_a_restart(checker: ModuleType) -> None:
    """R.late is left out: the checker holds data of the first session against the second."""
    check = checker.Checker(interop=True, ignore=["R.late"])
    feed(check, NOW_S, "full")
    feed(check, NOW_S + 5000, "full")
    assert check.finish() == []
    assert check.tot["flow_records"] == 2000
