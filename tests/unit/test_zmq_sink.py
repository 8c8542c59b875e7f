"""The sink for ntopng against a SUB socket that reads as ntopng does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from probe.config import RunConfig
from probe.errors import ConfigError
from probe.export.targets import parse_target
from probe.flow.event import EVENT_DTYPE, SOCKET_DTYPE
from probe.flow.owner import ContainerNames, OwnerTable
from probe.interfaces.names import InterfaceList
from probe.interfaces.table import Counters, Link
from probe.sink import EventSink
from probe.sinks import open_sink
from probe.sinks.ntopng_outbox import Outbox
from probe.sinks.zmq import ZmqSink
from tests.ntopng_reader import Reader
from tests.records import NOW_S, flow_records, owner_table

CONFIG = RunConfig(active_timeout=60, idle_timeout=15, template_refresh=600)


class _Metering:
    observed_flows = 0

    def ignored(self) -> tuple[int, int]:
        return 0, 0

    def losses(self) -> dict[str, int]:
        return {"flows_evicted": 3, "late_packets": 2, "rows_lost": 1}


Open = Callable[[str], ZmqSink]
Listen = Callable[..., Reader]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def open_(stack: ExitStack) -> Open:
    def open_one(url: str) -> ZmqSink:
        sink = open_sink(parse_target(url), CONFIG, owner_table(), _Metering(), InterfaceList())
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
    """A reader that binds, as ``ntopng -i tcp://127.0.0.1:5556c``, and a sink that connects."""
    reader = listen(bind=True, **options)
    sink = open_(f"zmq://127.0.0.1:{reader.port}{query}")
    reader.read_until(lambda: not sink.is_down, pump(sink))  # a SUB must look to subscribe
    return sink, reader


def flows_of(reader: Reader) -> int:
    return sum(flow["IN_BYTES"] + flow["OUT_BYTES"] for flow in reader.flows)


def test_flows_of_a_probe_that_connects(open_: Open, listen: Listen) -> None:
    reader = listen(bind=True)
    sink = open_(f"zmq://127.0.0.1:{reader.port}")
    assert isinstance(sink, EventSink)
    assert sink.is_down
    records = flow_records(500)
    sink.send(records, NOW_S)  # before anybody subscribes
    assert sink.backlog > 0
    reader.read_until(lambda: len(reader.flows) == 500, pump(sink))
    assert flows_of(reader) == int(records["octets"].sum())
    assert sink.backlog == 0
    assert sink.statistics.sent_flow_records == 500
    assert sink.statistics.sent_messages == len(reader.ids)
    assert sink.summary().endswith("with 500 flows, both directions in one")
    address = sink.local_address()
    assert address is not None
    assert address[0] == "127.0.0.1"
    assert address[1] != reader.port


def test_flows_of_a_probe_that_binds(open_: Open, listen: Listen) -> None:
    with zmq.Context() as context, context.socket(zmq.PUB) as taken:
        port = taken.bind_to_random_port("tcp://127.0.0.1")
    sink = open_(f"zmq://*:{port}?bind=1")
    reader = listen(f"tcp://127.0.0.1:{port}", prefixes=("flow", "event", "counter", "template"))
    sink.send(flow_records(50), NOW_S)
    reader.read_until(lambda: len(reader.flows) == 50 and reader.seen["event"], pump(sink))
    assert set(reader.seen) == {"flow", "event", "template"}
    assert sink.local_address() == ("127.0.0.1", port)


def test_an_address_that_is_taken(open_: Open, listen: Listen) -> None:
    reader = listen(bind=True)
    with pytest.raises(ConfigError, match=r"zmq://127.0.0.1:\d+: cannot bind it: Address already"):
        open_(f"zmq://127.0.0.1:{reader.port}?bind=1")


def test_message_ids_have_no_gaps_over_all_topics(open_: Open, listen: Listen) -> None:
    sink, reader = connected(open_, listen)
    for _ in range(20):
        sink.send(flow_records(100), NOW_S)
        sink.finish(NOW_S)
        sink.announce_interfaces()
    reader.read_until(lambda: len(reader.flows) == 2000 and not sink.backlog, pump(sink))
    assert sink.flush(time.monotonic() + 5)
    reader.read_until(lambda: len(reader.ids) == sink.statistics.sent_messages)
    assert reader.ids == list(range(reader.ids[0], reader.ids[0] + len(reader.ids)))
    assert len(reader.source_ids) == 1
    assert len(reader.seen) > 3


def test_the_status(open_: Open, listen: Listen) -> None:
    sink, reader = connected(open_, listen)
    records = flow_records(10)
    sink.send(records, NOW_S)
    sink.finish(NOW_S)
    reader.read_until(lambda: any(s["bytes"] for s in reader.topics.get("event", ())), pump(sink))
    status = reader.topics["event"][-1]
    assert status["timeout"] == {"lifetime": 60, "idle": 15, "collected_lifetime": 60}
    assert status["bytes"] == int(records["octets"].sum())
    assert status["packets"] == int(records["packets"].sum())
    assert status["packet_drops"] == 2
    assert status["drops"] == {
        "export_queue_full": 0, "too_many_flows": 3, "late_packets": 2, "rows_lost": 1
    }  # fmt: skip
    assert status["zmq"]["num_zmq_exporters"] == 1
    assert {status["probe"]["unique_source_id"]} == reader.source_ids
    assert status["iface"].keys() == {"name", "speed", "ip"}
    assert status["avg"].keys() == {"bps", "pps"}
    assert isinstance(status["mode"], str)
    assert status["time"] == int(NOW_S)


def test_the_status_comes_again_before_ntopng_forgets(open_: Open, listen: Listen) -> None:
    """Times are handed in: nothing waits here."""
    sink, reader = connected(open_, listen)
    now = time.monotonic()
    for after_s in range(30):
        due = sink.pump(now + after_s)
        assert due is not None
        assert due <= now + after_s + 3
    reader.read_until(lambda: reader.seen["event"] >= 10)


def link(index: int, **changes: Any) -> Link:
    counters = Counters(1, 2, 0, 4, 5, 6, 7, 8, 9)
    return Link(
        index, f"veth{index}", speed=10**10, is_admin_up=True, oper_status=1, counters=counters,
        **changes,
    )  # fmt: skip


def test_counters_with_their_containers(open_: Open, listen: Listen) -> None:
    sink, reader = connected(open_, listen)
    pod = ContainerNames(name="web", pod="web-0", namespace="shop")
    links = [
        link(3, container_id="c1", names=pod),
        link(4, container_id="c2", names=ContainerNames(name="db")),
        link(5, container_id="c3"),
        link(6, is_promiscuous=True),
    ]
    for second in range(6):
        sink.send_interfaces(links, NOW_S + second)
    reader.read_until(lambda: reader.seen["counter"] == 8, pump(sink))
    found = {one["ifIndex"]: one for one in reader.topics["counter"]}
    assert {index: one.pop("LOCAL_CONTAINER", None) for index, one in found.items()} == {
        3: {"ID": "c1", "K8S": {"NAME": "web", "POD": "web-0", "NS": "shop"}},
        4: {"ID": "c2", "DOCKER": {"NAME": "db"}},
        5: {"ID": "c3", "DOCKER": {"NAME": "c3"}},
        6: None,
    }
    samples = {one["samplesGenerated"] for one in reader.topics["counter"]}
    assert len(samples) == 2
    last = found[6]
    assert last.pop("samplesGenerated") in samples
    octets = [int(part) for part in sink.address.split(".")]
    assert last == {
        "deviceIP": int.from_bytes(bytes(octets), "big"), "ifIndex": 6, "ifName": "veth6",
        "ifType": 1, "ifSpeed": 10**10, "ifDirection": "Full", "ifAdminStatus": "Up",
        "ifOperStatus": "Up", "ifInOctets": 1, "ifInPackets": 2, "ifInErrors": 4,
        "ifOutOctets": 6, "ifOutPackets": 7, "ifOutErrors": 8, "ifPromiscuousMode": 1,
    }  # fmt: skip


def test_the_template_comes_first_and_names_every_key(open_: Open, listen: Listen) -> None:
    sink, reader = connected(open_, listen)
    sink.send(flow_records(40), NOW_S)
    sink.send(flow_records(40, ip_version=6), NOW_S)
    reader.read_until(lambda: len(reader.flows) == 80, pump(sink))
    (fields,) = reader.topics["template"]
    assert next(iter(reader.seen)) == "template"
    assert all(one.keys() == {"PEN", "field", "len", "format", "name", "descr"} for one in fields)
    names = [one["name"] for one in fields]
    assert len(names) == len(set(names))
    assert {key for flow in reader.flows for key in flow} <= set(names)
    numbers = {(one["PEN"], one["field"]) for one in fields}
    assert len(numbers) == len(fields)
    assert {(0, 1), (35632, 78), (35632, 168), (35632, 376)} <= numbers


def sockets(*ports: int, gone: int = 0, protocol: int = 6, version: int = 4) -> Any:
    rows = np.zeros(len(ports), SOCKET_DTYPE)
    rows["local_port"], rows["cookie"], rows["owner"] = ports, ports, 1
    rows["protocol"], rows["ip_version"], rows["gone"] = protocol, version, gone
    return rows


def test_listening_ports_are_told_when_they_change(open_: Open, listen: Listen) -> None:
    sink, reader = connected(open_, listen)
    sink.send_sockets(sockets(80, 22), NOW_S)
    sink.send_sockets(sockets(53, protocol=17, version=6), NOW_S)
    sink.send_sockets(sockets(22, gone=1), NOW_S)
    now = time.monotonic() + 100
    reader.read_until(
        lambda: any(o["listening-ports"] for o in reader.topics.get("listening-ports", ())),
        lambda: sink.pump(now),
    )
    told = reader.topics["listening-ports"]
    assert told[-1]["listening-ports"] == {
        "tcp4": [{"port": 80, "proc": "worker-1", "pkg": "web-1"}],
        "udp6": [{"port": 53, "proc": "worker-1", "pkg": "web-1"}],
    }
    assert told[-1]["ip-addresses"] == [sink.address]
    assert told[-1]["instance-name"]
    before = len(told)
    sink.send_sockets(sockets(80), NOW_S)  # no news
    sink.pump(now + 50)
    sink.finish(NOW_S)
    count = reader.seen["event"]
    reader.read_until(lambda: reader.seen["event"] > count, lambda: sink.pump(now + 60))
    assert len(told) == before


def test_so_many_ports_that_a_message_could_not_hold_them(open_: Open, listen: Listen) -> None:
    sink, reader = connected(open_, listen)
    sink.send_sockets(sockets(*range(1, 30000)), NOW_S)
    reader.read_until(
        lambda: any(o["listening-ports"] for o in reader.topics.get("listening-ports", ())),
        lambda: sink.pump(time.monotonic() + 100),
    )
    assert reader.topics["listening-ports"][-1]["listening-ports"]["tcp4"][0]["port"] == 1


def test_names_of_interfaces(open_: Open, listen: Listen) -> None:
    sink, reader = connected(open_, listen)
    interfaces = InterfaceList()
    interfaces.refresh()
    sink._interfaces = interfaces
    sink.announce_interfaces()
    reader.read_until(
        lambda: reader.topics.get("snmp-ifaces", [{}])[-1].get(sink.address), pump(sink)
    )
    names = reader.topics["snmp-ifaces"][-1][sink.address]
    assert "lo" in names.values()
    assert all(index.isdecimal() for index in names)


def keys(folder: Path) -> tuple[tuple[bytes, bytes], Path]:
    public, secret = zmq.curve_keypair()
    path = folder / "ntopng.key"
    path.write_bytes(public + b"\n")
    return (public, secret), path


@pytest.mark.parametrize("binds", [False, True])
def test_curve(open_: Open, listen: Listen, tmp_path: Path, binds: bool) -> None:
    """ntopng is the CURVE server, whichever side binds."""
    pair, path = keys(tmp_path)
    if binds:
        with zmq.Context() as context, context.socket(zmq.PUB) as taken:
            port = taken.bind_to_random_port("tcp://127.0.0.1")
        sink = open_(f"zmq://127.0.0.1:{port}?bind=1&curve={path}")
        reader = listen(f"tcp://127.0.0.1:{port}", curve=pair)
    else:
        sink, reader = connected(open_, listen, f"?curve={path}", curve=pair)
    sink.send(flow_records(30), NOW_S)
    reader.read_until(lambda: len(reader.flows) == 30, pump(sink))


def test_a_wrong_key_is_said_once(
    open_: Open, listen: Listen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, path = keys(tmp_path)
    reader = listen(bind=True, curve=zmq.curve_keypair())
    sink = open_(f"zmq://127.0.0.1:{reader.port}?curve={path}")
    reader.read_until(lambda: sink.statistics.errors, pump(sink))
    assert sink.is_down
    assert not reader.ids
    assert "CURVE" in caplog.text or "subscribes" in caplog.text


@pytest.mark.parametrize("text", ["", "short", "x" * 39 + "~", "é" * 20])
def test_files_that_hold_no_key(open_: Open, tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    with pytest.raises(ConfigError, match="40 characters of Z85"):
        open_(f"zmq://127.0.0.1:5556?curve={path}")
    with pytest.raises(ConfigError, match=r"cannot read .*: No such file"):
        open_(f"zmq://127.0.0.1:5556?curve={path}.not")


def test_nobody_listens(open_: Open, caplog: pytest.LogCaptureFixture) -> None:
    """The queue is bounded, what comes last is dropped, and one warning says so."""
    sink = open_("zmq://127.0.0.1:9?bind=0")
    sink.outbox._limit = 200_000
    for _ in range(10):
        sink.send(flow_records(200), NOW_S)
    counted = sink.statistics
    assert sink.backlog <= 200_000
    assert 0 < counted.dropped_flow_records < 2000
    assert counted.dropped_packets > 0
    now = time.monotonic()
    for after_s in (0, 4, 6, 7, 8):
        sink.pump(now + after_s)
    assert caplog.text.count("no ntopng subscribes to flows") == 1
    assert not sink.flush(time.monotonic() + 0.1)
    sink.outbox.drop()
    assert counted.dropped_flow_records == 2000
    assert counted.sent_messages == 0


def test_a_subscriber_that_is_too_slow(open_: Open, listen: Listen) -> None:
    """What it does not get is counted here, and by its jumps there."""
    sink, reader = connected(open_, listen, receive_messages=2, buffer_octets=4096)
    sink.outbox._limit = 3_000_000
    longest_s = 0.0
    while not sink.statistics.dropped_messages:
        sink.send(flow_records(3000), NOW_S)
        began = time.process_time()
        sink.pump(time.monotonic())
        longest_s = max(longest_s, time.process_time() - began)
    assert longest_s < 1
    dropped = sink.statistics.dropped_messages
    reader.read_until(lambda: not sink.backlog, pump(sink))
    assert sink.statistics.dropped_messages == dropped
    sink.finish(NOW_S)  # ntopng sees a gap by what comes after it
    reader.read_until(
        lambda: len(reader.ids) == sink.statistics.sent_messages and not sink.backlog, pump(sink)
    )
    assert reader.dropped == dropped
    assert len(reader.flows) == sink.statistics.sent_flow_records
    octets = flows_of(reader) + sink.statistics.dropped_octets
    assert octets == sink._status._octets


def test_ntopng_goes_and_comes_back(open_: Open, listen: Listen) -> None:
    sink, first = connected(open_, listen)
    sink.send(flow_records(20), NOW_S)
    first.read_until(lambda: len(first.flows) == 20, pump(sink))
    first.close()
    pump_until(sink, lambda: sink.is_down)
    sink.send(flow_records(30), NOW_S)
    second = listen(f"tcp://127.0.0.1:{first.port}", bind=True)
    # What waited comes first.
    second.read_until(lambda: len(second.flows) == 30 and second.seen["template"], pump(sink))
    assert second.seen["template"] == 1
    assert second.ids[0] > first.ids[-1]
    assert second.dropped == 0
    assert sink.statistics.dropped_messages == 0


def test_a_second_ntopng_is_told_everything(open_: Open, listen: Listen) -> None:
    with zmq.Context() as context, context.socket(zmq.PUB) as taken:
        port = taken.bind_to_random_port("tcp://127.0.0.1")
    sink = open_(f"zmq://127.0.0.1:{port}?bind=1")
    for _ in range(2):
        reader = listen(f"tcp://127.0.0.1:{port}")
        reader.read_until(lambda r=reader: r.seen["template"] and r.seen["event"], pump(sink))  # type: ignore[misc]


def test_events_are_not_for_tlv(open_: Open, listen: Listen) -> None:
    sink, _ = connected(open_, listen)
    before = sink.outbox._next_id
    sink.send_events(np.zeros(5, EVENT_DTYPE), NOW_S)
    assert sink.outbox._next_id == before


def test_agent_objects(open_: Open, listen: Listen) -> None:
    """For editions that take them: flows and events with ntop's names, one object a message."""
    sink, reader = connected(open_, listen, "?flows=json")
    records = flow_records(5)
    sink.send(records, NOW_S)
    events = np.zeros(3, EVENT_DTYPE)
    events["kind"], events["protocol"] = (1, 6, 8), (6, 17, 0)
    events["ip_version"], events["owner"] = (4, 4, 0), 1
    events["time_ns"] = NOW_S * 10**9
    sink.send_events(events, NOW_S)
    reader.read_until(lambda: len(reader.objects) == 7, pump(sink))
    flows, (tcp, udp) = reader.objects[:5], reader.objects[5:]
    octets = sum(flow["IN_BYTES"] + flow["OUT_BYTES"] for flow in flows)
    assert octets == int(records["octets"].sum())
    assert sink.statistics.sent_flow_records == 5
    assert tcp["TCP_EVENT_TYPE"] == "CONNECT"
    assert udp["UDP_EVENT_TYPE"] == "SEND"
    for one in reader.objects:
        assert one["LOCAL_PROCESS"]["PID"] > 1000
        assert one["LOCAL_CONTAINER"]["DOCKER"]["NAME"].startswith("web-")
        assert one["EXPORTER_IPV4_ADDRESS"] == sink.address
        assert "INTERFACE_NAME" not in one
    assert {"IPV4_LOCAL_ADDR", "IPV4_REMOTE_ADDR", "L4_LOCAL_PORT", "LAST_SWITCHED"} <= set(
        flows[0]
    )


def test_forgotten_owners_are_encoded_anew(open_: Open, listen: Listen) -> None:
    sink, reader = connected(open_, listen)
    records = flow_records(1, owners=1)
    sink.send(records, NOW_S)
    table = sink._encoder._sources._owners
    assert isinstance(table, OwnerTable)
    table.release(1)
    sink.forget([1])
    sink.send(records, NOW_S)
    reader.read_until(lambda: len(reader.flows) == 2, pump(sink))
    assert [flow.get("SRC_PROC_NAME", "") for flow in reader.flows] == ["worker-1", ""] or [
        flow.get("DST_PROC_NAME", "") for flow in reader.flows
    ] == ["worker-1", ""]


def test_ids_wrap(listen: Listen) -> None:
    sent: list[bytes] = []
    outbox = Outbox(7)
    outbox._next_id = 2**32 - 1
    for _ in range(3):
        outbox.add_json("event", b"{}")

    def send(header: bytes, _: bytes) -> bool:
        sent.append(header)
        return True

    assert outbox.send(send)
    assert [header[20:24].hex() for header in sent] == ["ffffffff", "00000000", "00000001"]
