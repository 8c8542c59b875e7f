"""Two hosts for each test module that asks for them. All of these tests need root."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.interop.workload import interop_hosts
from tests.support.lab.hosts import Host


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    assert os.geteuid() == 0, "the interop tests load eBPF: run them as root"
    with interop_hosts() as found:
        yield found
