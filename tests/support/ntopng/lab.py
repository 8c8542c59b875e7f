"""Makes a sink and a reader of it; the fixtures are in tests/unit/conftest.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from probe.config import RunConfig
from probe.export.sink_factory import SinkFactory
from probe.figures import Figures
from probe.interfaces.names import InterfaceList
from probe.ntopng.sink import ZmqSink
from probe.run.destinations import open_sink, parse_destination
from tests.support.ntopng.reader import Reader
from tests.support.records import owner_table

CONFIG = RunConfig(active_timeout=60, idle_timeout=15, template_refresh=600)


class _Metering:
    def figures(self) -> Figures:
        return Figures(losses={"flows_evicted": 3, "packets_after_end": 2, "rows_lost": 1})


Open = Callable[[str], ZmqSink]
Listen = Callable[..., Reader]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def open_(stack: ExitStack) -> Open:
    def open_one(url: str) -> ZmqSink:
        factory = SinkFactory(CONFIG, owner_table(), _Metering(), InterfaceList())
        sink = open_sink(parse_destination(url), factory)
        assert isinstance(sink, ZmqSink)
        stack.callback(sink.close)
        return sink

    return open_one


@pytest.fixture
def listen(stack: ExitStack) -> Listen:
    def listen_one(endpoint: str = "tcp://127.0.0.1:*", **options: Any) -> Reader:
        return stack.enter_context(closing(Reader(endpoint, **options)))

    return listen_one


def pump(sink: ZmqSink) -> Callable[[], object]:
    return lambda: sink.pump(time.monotonic())


def pump_until(sink: ZmqSink, is_done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not is_done():
        assert time.monotonic() < deadline, sink.statistics
        sink.pump(time.monotonic())
        time.sleep(0.005)


def connected(open_: Open, listen: Listen, query: str = "", **options: Any) -> tuple[Any, Any]:
    """Makes a reader that binds, like ``ntopng -i tcp://127.0.0.1:5556c``, and a sink."""
    reader = listen(bind=True, **options)
    sink = open_(f"zmq://127.0.0.1:{reader.port}{query}")
    reader.read_until(lambda: not sink.is_down, pump(sink))  # a SUB must look to subscribe
    return sink, reader


def flows_of(reader: Reader) -> int:
    return sum(flow["IN_BYTES"] + flow["OUT_BYTES"] for flow in reader.flows)
