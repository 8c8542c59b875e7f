"""Fixtures and settings that all unit tests share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.support.ntopng.lab import listen, open_, stack  # noqa: F401


@pytest.fixture(autouse=True)
def _other_tests_keep_their_log() -> Iterator[None]:
    logger = logging.getLogger("probe")
    former = logger.level, logger.handlers[:]
    yield
    logger.setLevel(former[0])
    logger.handlers[:] = former[1]
