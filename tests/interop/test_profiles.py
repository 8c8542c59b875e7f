"""Every profile in every protocol before the strict reader, with Template refresh."""

from __future__ import annotations

import pytest

from probe.mapping import load_profiles
from tests.profiles import PROTOCOLS, ProfileSession
from tests.reader import StrictReader

#: NetFlow v9 cannot do without types of vendors. In IPFIX, NULs
#: fill the strings of options, which nfdump wants in fixed lengths.
_MEANT = {
    "ipfix": {"value.nul"},
    "biflow": {"value.nul"},
    "netflow9": {"advice.private"},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("max_message", [1200, 1400])
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
    assert reader.broken(but=_MEANT[protocol]) == []
    assert reader.totals["flows"] == (500 if protocol == "biflow" else 1000)
    assert reader.totals["repeated templates"] >= 2
