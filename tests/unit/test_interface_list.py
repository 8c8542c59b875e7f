"""Tests the list of interfaces when the kernel does not answer."""

from __future__ import annotations

import errno

import pytest

from probe.interfaces import names
from probe.interfaces.names import InterfaceList
from probe.netlink.rtnetlink import Link


def test_the_old_list_stays_and_one_warning_is_enough(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[list[Link] | None] = [
        [Link(1, "lo", "lo")], None, None, [Link(1, "lo", "loop")], None,
    ]  # fmt: skip

    def read() -> list[Link]:
        if (answer := answers.pop(0)) is None:
            raise OSError(errno.ENOBUFS, "no room")
        return answer

    def receive(_: object) -> list[object]:
        raise OSError(errno.EBADF, "gone")

    monkeypatch.setattr(names, "read_links", read)
    monkeypatch.setattr(names, "receive_changes", receive)
    known = InterfaceList()
    assert known.refresh()
    assert not known.refresh()  # the socket for changes fails and is reopened
    assert [known.refresh(), known.refresh()] == [False, False]
    assert known.interfaces == [Link(1, "lo", "lo")]
    assert len(caplog.records) == 1
    assert known.refresh()
    assert known.interfaces == [Link(1, "lo", "loop")]
    assert not known.refresh()
    assert len(caplog.records) == 2
