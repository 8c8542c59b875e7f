"""Tests what a kernel offers, as read from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe.kernel import host


@pytest.mark.parametrize("before", [0, 5, (1 << 18) - 7, (1 << 18) - 1, 1 << 18, 1 << 19])
def test_a_kernel_function_is_found_wherever_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """The name may cross the border of two pieces in which the file is read."""
    types = tmp_path / "vmlinux"
    types.write_bytes(b"x" * before + b"\0bpf_something\0" + b"y" * 1000)
    monkeypatch.setattr(host, "_BTF", types)
    assert host.has_kernel_function("bpf_something")
    assert not host.has_kernel_function("bpf_some"), "a part of a name"
    assert not host.has_kernel_function("bpf_something_else")
