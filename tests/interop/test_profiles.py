"""Every profile in every protocol before ../shared/tools/ipfix_check.py, with Template refresh."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from probe.mapping import load_profiles
from tests.interop.checker import require
from tests.profiles import PROTOCOLS, ProfileSession

#: NetFlow v9 cannot do without types of vendors and Templates padded to 4 octets. In IPFIX, NULs
#: fill the strings of options, which nfdump wants in fixed lengths.
_MEANT = {
    "ipfix": {("V.nul", "W")},
    "biflow": {("V.nul", "W")},
    "netflow9": {("T.range9", "I"), ("L.tmplpad", "I")},
}


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ipfix_check", require())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("max_message", [1200, 1400])
@pytest.mark.parametrize("profile", load_profiles())
def test_no_rule_is_broken(
    checker: ModuleType, profile: str, protocol: str, max_message: int
) -> None:
    check = checker.Checker(interop=True)
    session = ProfileSession(profile, protocol, max_message=max_message)
    for step in range(5):
        later_s = step * 300.5
        records = session.records(200, 4 if step % 2 else 6, later_s)
        for message in session.messages(records, later_s):
            check.feed(message, session.now_s + later_s, "probe")
    found = {(issue["rule"], issue["sev"]) for issue in check.finish()}
    assert found <= _MEANT[protocol], check.issues[:3]
    assert check.tot["flow_records"] == (500 if protocol == "biflow" else 1000)
    assert check.summary()["template_resends"] >= 2
