"""Tests Kafka with librdkafka's mock cluster as the brokers and its consumer as the reader."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer

from probe.config import RunConfig
from probe.errors import ConfigError
from probe.flow.codes import EventKind
from probe.flow.columns import EVENT_DTYPE
from probe.jsonlines.kafka import KafkaSink
from probe.run.destinations import parse_destination
from tests.support.json_schema import check_line
from tests.support.records import NOW_S, flow_records, owner_table

DEADLINE_S = 30


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Yields host:port of three brokers, separated by commas."""
    owner = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 3})
    brokers = owner.list_topics(timeout=DEADLINE_S).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    owner.flush(0)


def open_sink(url: str) -> KafkaSink:
    return KafkaSink(parse_destination(url), RunConfig(), owner_table())


def read(brokers: str, topic: str, count: int) -> list[Any]:
    """Returns the first ``count`` messages of the topic."""
    settings = {"bootstrap.servers": brokers, "group.id": topic, "auto.offset.reset": "earliest"}
    consumer = Consumer(settings)
    consumer.subscribe([topic])
    found: list[Any] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(found) < count and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is not None and not message.error():
            found.append(message)
    consumer.close()
    return found


def wait_for(condition: Any, sink: KafkaSink) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        sink.pump(time.monotonic())
        time.sleep(0.02)


def test_events_arrive(cluster: str) -> None:
    """Events of both ends of a flow have the same key."""
    sink = open_sink(f"kafka://{cluster}/events")
    events = np.zeros(3, EVENT_DTYPE)
    events["kind"] = EventKind.CONNECT, EventKind.ACCEPT, EventKind.CONTAINER_START
    events["ip_version"], events["protocol"] = (4, 4, 0), (6, 6, 0)
    events["local_port"], events["remote_port"] = (40000, 443, 0), (443, 40000, 0)
    assert sink.takes_events
    sink.send_events(events, NOW_S)
    assert sink.flush(time.monotonic() + DEADLINE_S)
    keys = {
        check_line(message.value().decode())["EVENT_TYPE"]: message.key()
        for message in read(cluster, "events", 3)
    }
    assert keys.keys() == {"CONNECT", "ACCEPT", "CONTAINER_START"}
    assert keys["CONNECT"] == keys["ACCEPT"]


def test_flows_arrive_keyed(cluster: str) -> None:
    sink = open_sink(f"kafka://{cluster}/flows")
    records = flow_records(200)
    sink.send(records, NOW_S)
    sink.send(records, NOW_S)
    assert sink.flush(time.monotonic() + DEADLINE_S)
    found = read(cluster, "flows", 400)
    assert len(found) == 400
    by_flow: dict[str, set[tuple[bytes, int]]] = {}
    for message in found:
        line = check_line(message.value().decode(), "flow")
        by_flow.setdefault(line["FLOW_ID"], set()).add((message.key(), message.partition()))
    assert len(by_flow) == 200
    assert all(len(places) == 1 for places in by_flow.values())
    assert len({key for places in by_flow.values() for key, _ in places}) == 200
    assert len({place for places in by_flow.values() for _, place in places}) > 1
    counted = sink.statistics
    assert (counted.sent_records, counted.sent_flow_records) == (400, 400)
    assert (counted.dropped_records, counted.errors) == (0, 0)
    assert counted.sent_octets == sum(len(message.value()) for message in found)
    assert sink.backlog == 0
    sink.close()


def test_a_full_queue_never_blocks_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        sink = open_sink(f"kafka://127.0.0.1:{port}/flows?queue.buffering.max.messages=50")
        records = flow_records(80)
        sink.send(records, NOW_S)
        counted = sink.statistics
        assert (counted.dropped_records, counted.dropped_flow_records) == (30, 30)
        assert counted.dropped_octets == int(records["octets"][50:].sum())
        assert counted.dropped_packets == int(records["packets"][50:].sum())
        assert sink.backlog > 0
        sink.close()
    assert sum("50 messages wait already" in one.message for one in caplog.records) == 1
    assert counted.dropped_octets == int(records["octets"].sum())
    assert counted.sent_records == 0


def test_a_broker_that_comes_late(caplog: pytest.LogCaptureFixture) -> None:
    """Failed attempts are counted, and nothing is lost once a broker answers."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    sink = open_sink(f"kafka://127.0.0.1:{port}/late?reconnect.backoff.max.ms=200")
    sink.send(flow_records(20), NOW_S)
    wait_for(lambda: sink.is_down, sink)
    assert sink.statistics.errors > 0
    assert sink.statistics.bursts == 1
    assert sum("trying again" in one.message for one in caplog.records) == 1
    with Relay(port) as relay:
        wait_for(lambda: sink.statistics.sent_records == 20, sink)
        assert not sink.is_down
        assert len(read(relay.brokers, "late", 20)) == 20
    assert sink.statistics.dropped_records == 0
    sink.close()


class Relay:
    """A port, free until now, that leads to the one broker of a cluster."""

    def __init__(self, port: int) -> None:
        self._owner = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1})
        (broker,) = self._owner.list_topics(timeout=DEADLINE_S).brokers.values()
        self.brokers = f"{broker.host}:{broker.port}"
        self._broker = (broker.host, broker.port)
        self._port = port

    def __enter__(self) -> Relay:
        import selectors
        import threading

        self._stop = False
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join(DEADLINE_S)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]

    def _run(self) -> None:
        import selectors

        while not self._stop:
            for key, _ in self._selector.select(0.05):
                if key.data is None:
                    near, far = self._listener.accept()[0], socket.create_connection(self._broker)
                    self._selector.register(near, selectors.EVENT_READ, far)
                    self._selector.register(far, selectors.EVENT_READ, near)
                    continue
                octets = key.fileobj.recv(65536)  # type: ignore[union-attr]
                if octets:
                    key.data.sendall(octets)
                else:
                    self._selector.unregister(key.fileobj)


def test_settings_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "kafka.properties"
    path.write_text("# of the operator\nsecurity.protocol = PLAINTEXT\nsasl.password=secret=1\n")
    sink = open_sink(f"kafka://127.0.0.1:1/t?config={path}")
    sink.close()
    path.write_text("group.id=1\n")
    with pytest.raises(ConfigError, match=r"unknown setting 'group.id'"):
        open_sink(f"kafka://127.0.0.1:1/t?config={path}")
    with pytest.raises(ConfigError, match=r"cannot read .*missing"):
        open_sink(f"kafka://127.0.0.1:1/t?config={tmp_path}/missing")


@pytest.mark.parametrize(
    ("option", "said"), [("acks=0", "acks"), ("security.protocol=X", "security.protocol")]
)
def test_settings_that_librdkafka_refuses(option: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"destination kafka://.*{said}"):
        open_sink(f"kafka://127.0.0.1:1/t?{option}")


def test_ecs(cluster: str) -> None:
    sink = open_sink(f"kafka://{cluster}/ecs?format=ecs")
    sink.send(flow_records(1), NOW_S)
    assert sink.flush(time.monotonic() + DEADLINE_S)
    (message,) = read(cluster, "ecs", 1)
    check_line(message.value().decode(), "ecs_flow")
    assert json.loads(message.value())["event"]["action"] == "network-flow"
    sink.close()
