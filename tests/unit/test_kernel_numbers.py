"""Tests that numbers named by bpf/flow.h and by Python are equal, as read from the object's BTF."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe.flow.codes import Mark, OwnerSource, Role
from probe.kernel import host
from probe.kernel.btf import Btf
from probe.kernel.libbpf import KernelObject
from probe.sources.ebpf import OBJECT

PROTOCOLS = Path(__file__).resolve().parents[2] / "bpf" / "protocols.h"


@pytest.fixture(scope="module")
def btf() -> Iterator[Btf]:
    kernel = KernelObject(OBJECT)
    yield kernel.btf
    kernel.close()


def test_roles(btf: Btf) -> None:
    assert btf.enumerators("flow_role") == {f"ROLE_{role.name}": int(role) for role in Role}


def test_sources_of_an_owner(btf: Btf) -> None:
    """User space has two further ways to find an owner."""
    ours = {f"OWNER_{source.name}": int(source) for source in OwnerSource}
    found = btf.enumerators("owner_source")
    assert found.items() <= ours.items()
    assert ours.keys() - found.keys() == {"OWNER_ADDRESS", "OWNER_CGROUP"}


def test_marks(btf: Btf) -> None:
    """Only user space marks ends that are told apart by their tuple."""
    ours = {f"MARK_{mark.name}": int(mark) for mark in Mark}
    found = btf.enumerators("flow_mark")
    assert found.items() <= ours.items()
    assert ours.keys() - found.keys() == {"MARK_BY_TUPLE"}


def test_hierarchies(btf: Btf) -> None:
    ours = {f"HIERARCHY_{name.upper()}": value for name, value in host._V1_CONTROLLERS.items()}
    assert btf.enumerators("container_hierarchy") == {"HIERARCHY_V2": 0} | ours


def test_protocols_and_families() -> None:
    """Each number of protocols.h that Python's socket module names is the same there."""
    text = PROTOCOLS.read_text()
    found = dict(re.findall(r"(?:#define )?\b((?:IPPROTO|AF|PACKET)_\w+) (?:= )?(\d+)", text))
    for name, value in found.items():
        assert getattr(socket, name) == int(value), name
    assert {"IPPROTO_TCP", "IPPROTO_UDP", "IPPROTO_FRAGMENT", "AF_INET6"} <= found.keys()
