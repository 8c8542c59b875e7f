"""Tests every profile in every protocol with the strict reader, with Template refresh."""

from __future__ import annotations

import pytest

from probe.mapping import load_profile, load_profiles
from tests.support.ipfix.profiles import PROTOCOLS, ProfileSession
from tests.support.reader import StrictReader

#: NetFlow v9 needs vendors' types. In IPFIX, NULs fill the strings of options,
#: because nfdump needs fixed lengths.
_MEANT = {
    "ipfix": {"value.nul"},
    "biflow": {"value.nul"},
    "netflow9": {"advice.private"},
}


def _meant_by(profile: str, protocol: str) -> set[str]:
    """Returns the findings that are meant.

    Type records have two strings of variable length, for libfixbuf; the profile for nfdump has no
    type records. go-ipfix ends a connection with any options, so its profile has no types.
    """
    if protocol == "netflow9":
        return _MEANT[protocol]
    if "types" in load_profile(profile).options:
        return {*_MEANT[protocol], "advice.strings"}
    return _MEANT[protocol] | ({"type.missing"} if profile == "antrea" else set())


def test_nfdump_gets_no_options_that_it_refuses() -> None:
    assert "advice.strings" not in _meant_by("nfdump", "ipfix")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("max_message", [1250, 1400])
@pytest.mark.parametrize("profile", load_profiles())
def test_no_rule_is_broken(profile: str, protocol: str, max_message: int) -> None:
    reader = StrictReader()
    session = ProfileSession(profile, protocol, max_message=max_message)
    for step in range(5):
        later_s = step * 300.5
        records = session.records(200, 4 if step % 2 else 6, later_s)
        for message in session.messages(records, later_s):
            reader.feed(message, session.now_s + later_s, "probe")
    reader.finish()
    assert reader.broken(but=_meant_by(profile, protocol)) == []
    assert reader.totals["flows"] == (500 if protocol == "biflow" else 1000)
    assert reader.totals["repeated templates"] >= 2
